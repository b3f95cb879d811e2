"""Which settings can change what a run does: those of a part that it does not use can not.

Who gives one of those is told. Runs that differ in nothing else are the same run, and a label that named them would mislead.
A test runs every method and sees that what is said to matter is read, and that changing what is not changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from fedwarm.data.settings import OWN

SCHEME = ("range", "per-channel", "full-range", "skip-first-last")
ALL_ROBUST = (*SCHEME, "start-round")
ROBUST = {
    "kure": ("skip-first-last", "start-round", "kure-weight", "kure-target", "kure-warmup"),
    "apqn": (*ALL_ROBUST, "apqn-width", "noise", "noise-scale"),
    "qat": (*ALL_ROBUST, "bits", "quantize-activations"),
    "mqat": (*ALL_ROBUST, "train-bits", "granularity", "quantize-activations"),
    "rq": ("start-round",),
}
PROVIDED = {
    "foundation": (
        "pool", "prompt-mode", "prompt", "prompts-file", "phrases", "guidance", "steps", "judge", "judge-least", "judge-tries",
        "refused", "budget-seconds",
    ),
    "file": ("file",),
    "transforms": ("transforms",),
}  # fmt: skip
OWN_DEPTH = "-1"
READING = (
    "data.image-column", "data.label-column", "data.background", "data.bits", "data.missing-labels", "data.skip-broken",
)  # fmt: skip
GENERATING = ("foundation", "precision", "scheduler", "sample-steps", "guidance", "resize", "sample-batch-size")
SWITCHES = {
    "dp-rec": ("codec", "dp-rec"),
    "stochastic-rounding": ("codec", "stochastic-rounding"),
    "dp-sgd": ("privacy", "dp-sgd"),
    "gen-fedsd": ("augment", "gen-fedsd"),
    "hollowed": ("diffusion.trainer", "hollowed"),
}


def objective(settings: Mapping[str, Any], method: str) -> str:
    """What the clients train for: the setting's, or of method `quantization_robust` its variant."""
    chosen = str(settings.get("objective", "plain"))
    if chosen == "plain" and method == "quantization_robust":
        return str(settings.get("quantization-robust.variant", "mqat"))
    return chosen


def matters(key: str, settings: Mapping[str, Any], method: str) -> bool:
    """Whether a setting can change what a run does; settings that are not given have their defaults."""
    run, (part, _, name) = _Run(settings, method), key.rpartition(".")
    if part == "quantization-robust":
        return name in run.robust()
    return all(rule(run) for rule in (PARTS.get(part), KEYS.get(key)) if rule is not None)


def idle(given: Iterable[str], settings: Mapping[str, Any], method: str, real: bool = False) -> list[str]:
    """Those of the settings that somebody gave that change nothing; `real`: clients are real nodes, and not simulated."""
    return sorted(key for key in given if not matters(key, settings, method) and not (real and key.startswith("nodes.")))


@lru_cache(maxsize=1)
def _defaults() -> Mapping[str, Any]:
    from fedwarm.catalogue import all_groups
    from fedwarm.settings.fields import keys

    return {key: f.default for key, _, f in keys(all_groups())}


@dataclass(frozen=True)
class _Run:
    """What a run does, by its settings."""

    settings: Mapping[str, Any]
    method: str

    def __getitem__(self, key: str) -> Any:
        return self.settings[key] if key in self.settings else _defaults()[key]

    @property
    def warm(self) -> bool:
        return self.method == "warmfed"

    @property
    def one_shot(self) -> bool:
        return self.warm and self["warmfed.protocol"] == "one-shot"

    @property
    def generates(self) -> bool:
        """Whether the server draws images."""
        return self.warm and bool(self["warmfed.synthetic-ratio"])

    @property
    def adapts(self) -> bool:
        """Whether clients tune adapters."""
        return self.generates and bool(self["warmfed.adapt"])

    @property
    def trains(self) -> bool:
        """Whether clients train a classifier by the run's plan and objective, for others than themselves."""
        return not self.one_shot or (self.adapts and self["warmfed.local-model-source"] == "uploaded")

    @property
    def uploads(self) -> bool:
        """Whether clients send arrays."""
        return self.method != "local_only" and (not self.one_shot or self.adapts)

    @property
    def averages(self) -> bool:
        """Whether the server makes one model of several, by `robust.*`."""
        tuned = self.generates and self["warmfed.finetune-targets"] == "local_and_aggregate" and self["warmfed.epochs-local"] > 0
        return self.method not in ("local_only", "dp_rec") and (not self.one_shot or tuned)

    @property
    def weighs(self) -> bool:
        """Whether a client's number of images counts in that."""
        told = self.method != "scaffold" or self["scaffold.weight-by"] == "examples"
        return self.averages and told and self["robust.rule"] == "mean" and self["codec"] != "dp-rec"

    @property
    def taught(self) -> bool:
        """Whether a client of WarmFed trains a teacher on its own data."""
        rule = self["warmfed.selection"]
        return self.warm and rule != "never" and (self["warmfed.teacher-first"] == "local" or rule == "model_best")

    @property
    def filled(self) -> bool:
        """Whether clients add images to their own."""
        return self.method == "gen_fedsd" or self["augment"] == "gen-fedsd"

    def provided(self, *providers: str) -> bool:
        """Whether the images that clients add are from one of these sources."""
        return self.filled and self["gen-fedsd.provider"] in providers

    @property
    def measured(self) -> bool:
        """Whether the final model is measured at other widths."""
        return self.method != "local_only" and bool(self["evaluate.bit-widths"] or self.method == "quantization_robust")

    @property
    def noisy(self) -> bool:
        """Whether what DP-REC sends is private."""
        return bool(self["dp-rec.mechanism"] != "none")

    @property
    def struck(self) -> bool:
        """Whether faults are injected."""
        return bool(self["faults.kind"] != "none" and self["faults.rate"])

    @property
    def dealt(self) -> set[str]:
        """The depths of hollowed tuning, of `hollowed.depths` or `hollowed.depth`."""
        return {part.strip() for part in (str(self["hollowed.depths"]).strip() or str(self["hollowed.depth"])).split(",")}

    def robust(self) -> set[str]:
        """The settings `quantization-robust.*` that are used; those of the scheme by the measurement after training, too."""
        chosen, used = objective(self.settings, self.method), set[str]()
        if self.measured:
            used |= {*SCHEME} - ({"full-range", "skip-first-last"} if chosen == "rq" else set())
        if self.trains:
            drawn = {"sampled": "train-bits", "fixed": "bits"}[self["quantization-robust.apqn-width"]]
            used |= {"clip", *ROBUST.get(chosen, ()), *([drawn] if chosen == "apqn" else [])}
        own = self.method == "quantization_robust" and self["objective"] == "plain"
        return used | ({"variant"} if own else set())


Rule = Callable[[_Run], bool]
PARTS: dict[str, Rule] = {
    "warmfed": lambda r: r.warm,
    "fedprox": lambda r: r.method == "fedprox",
    "scaffold": lambda r: r.method == "scaffold",
    "dp-rec": lambda r: r.method == "dp_rec" or (r["codec"] == "dp-rec" and r.uploads),
    "stochastic-rounding": lambda r: r["codec"] == "stochastic-rounding" and r.uploads,
    "dp-sgd": lambda r: r["privacy"] == "dp-sgd" and (r.trains or r.adapts),
    "relaxed-quantization": lambda r: r.trains and objective(r.settings, r.method) == "rq",
    "gen-fedsd": lambda r: r.filled,
    "diffusion": lambda r: r.generates or r.provided("foundation"),
    "hollowed": lambda r: r.adapts and r["diffusion.trainer"] == "hollowed",
    "nodes": lambda r: False,  # who is waited for, and never what is computed; `idle` knows of real nodes
}


def _coding(r: _Run) -> bool:
    return bool(r["dp-rec.mechanism"] == "coding")


def _from(provider: str) -> Rule:
    return lambda r: r.provided(provider)


KEYS: dict[str, Rule] = {
    "objective": lambda r: r.trains,
    "codec": lambda r: r.uploads or r["codec"] == "dp-rec",  # which also hides what a client holds
    "augment": lambda r: r.method != "gen_fedsd",
    "num-server-rounds": lambda r: not r.one_shot,
    "patience": lambda r: not r.one_shot,
    "target": lambda r: not r.one_shot,
    "fraction-train": lambda r: r.method not in ("warmfed", "local_only", "centralized"),
    "local-epochs": lambda r: r.trains,
    "learning-rate": lambda r: (
        r.trains or r.taught or not r["warmfed.distill-learning-rate"]
        or (r.generates and not r["warmfed.server-learning-rate"])
    ),
    "save-pictures": lambda r: r.generates,
    "data.test-fraction": lambda r: r["data.test"] == "held-out",
    "data.test-split": lambda r: r["data.test"] != "held-out",
    "data.partition": lambda r: r["data.name"] != OWN,
    "data.alpha": lambda r: r["data.name"] != OWN and r["data.partition"] == "dirichlet",
    "data.classes-per-client": lambda r: r["data.name"] != OWN and r["data.partition"] == "pathological",
    "data.partition-by": lambda r: r["data.name"] != OWN and r["data.partition"] == "natural",
    "data.classes": lambda r: r["data.name"] == OWN,
    **dict.fromkeys(READING, lambda r: (
        r["data.name"] != "digits" or (r.provided("file") and r["gen-fedsd.file"] not in ("digits", "public"))
    )),
    "data.share-class-counts": lambda r: r.method != "dp_rec" and r["codec"] != "dp-rec" and r["privacy"] == "none",
    **{f"diffusion.{name}": lambda r: r.adapts for name in (
        "trainer", "rank", "alpha", "targets", "lora-steps", "lora-batch-size", "lora-learning-rate", "lora-schedule",
        "gradient-checkpointing",
    )},
    "diffusion.guidance": lambda r: r.generates or not r["gen-fedsd.guidance"],
    "diffusion.sample-steps": lambda r: r.generates or not r["gen-fedsd.steps"],
    "diffusion.sample-batch-size": lambda r: r["device"] != "cpu",  # a CPU draws sixteen at a time
    "evaluate.bit-widths": lambda r: r.method != "local_only",
    "evaluate.activations": lambda r: r.measured,
    "evaluate.calibration-images": lambda r: r.measured and r["evaluate.activations"],
    "dp-sgd.noise-multiplier": lambda r: not r["dp-sgd.target-epsilon"],
    "dp-sgd.delta": lambda r: r.method != "local_only" or r["dp-sgd.target-epsilon"] > 0,  # which says no epsilon
    "relaxed-quantization.delta-w": lambda r: bool(r["relaxed-quantization.local-grid"]),
    "hollowed.depth": lambda r: not str(r["hollowed.depths"]).strip(),
    "hollowed.memory-budget-mb": lambda r: OWN_DEPTH in r.dealt,
    "hollowed.mixed": lambda r: len(r.dealt) > 1 or OWN_DEPTH in r.dealt,  # a node may have a budget of its own
    **dict.fromkeys(("dp-rec.bits", "dp-rec.block-rule", "dp-rec.block-size", "dp-rec.rotation", "dp-rec.magnitude",
                     "dp-rec.debias"), _coding),
    **dict.fromkeys(("dp-rec.sigma", "dp-rec.target-epsilon", "dp-rec.delta"), lambda r: r.noisy),
    "dp-rec.noise-multiplier": lambda r: r.noisy and not (r["dp-rec.sigma"] or r["dp-rec.target-epsilon"]),
    **dict.fromkeys(("dp-rec.entropy", "dp-rec.adjacency"), lambda r: r.noisy or r["dp-rec.view"] != "local"),
    **dict.fromkeys(("dp-rec.server-learning-rate", "dp-rec.server-momentum"), lambda r: r.method == "dp_rec"),
    **{f"gen-fedsd.{name}": _from(provider) for provider, names in PROVIDED.items() for name in names},
    **{f"gen-fedsd.{name}": (lambda r: not r.provided("none")) for name in ("rule", "cap", "budget-images", "budget-mb")},
    "gen-fedsd.fixed": lambda r: r["gen-fedsd.rule"] == "fixed" and not r.provided("none"),
    "gen-fedsd.histogram-epsilon": lambda r: r["gen-fedsd.rule"] == "global" and not r.provided("none"),
    "gen-fedsd.allow-repeat": lambda r: r.provided("file") or (r.provided("foundation") and r["gen-fedsd.pool"] > 0),
    "gen-fedsd.prompt": lambda r: r.provided("foundation") and r["gen-fedsd.prompt-mode"] == "single",
    "gen-fedsd.prompts-file": lambda r: r.provided("foundation") and r["gen-fedsd.prompt-mode"] == "pool",
    "gen-fedsd.judge-least": lambda r: r.provided("foundation") and bool(r["gen-fedsd.judge"]),
    "gen-fedsd.weight-by": lambda r: r.weighs and not r.provided("none"),
    "robust.rule": lambda r: r.averages or r.method == "dp_rec",  # which refuses them
    "robust.clip-norm": lambda r: r.averages or r.method == "dp_rec",
    "robust.trim": lambda r: r.averages and r["robust.rule"] == "trimmed_mean",
    "robust.byzantine": lambda r: r.averages and r["robust.rule"] == "krum",
    "robust.keep": lambda r: r.averages and r["robust.rule"] == "krum",
    "robust.limit": lambda r: r.uploads and r.method != "dp_rec" and r["codec"] != "dp-rec",
    "faults.kind": lambda r: r["faults.rate"] > 0,
    "faults.rate": lambda r: r["faults.kind"] != "none",
    "faults.clients": lambda r: r.struck,
    "faults.delay-seconds": lambda r: r.struck and r["faults.kind"] == "delay",
    "faults.scale": lambda r: r.struck and r["faults.kind"] == "huge_update",
    "faults.poison-scale": lambda r: r.struck and r["faults.kind"] == "poison",
    **{f"warmfed.{name}": lambda r: r.generates for name in (
        "adapt", "prompt", "min-per-class", "finetune-targets", "epochs-warm", "server-learning-rate",
    )},
    "warmfed.local-model-source": lambda r: r.adapts,
    "warmfed.epochs-local": lambda r: r.generates and r["warmfed.finetune-targets"] == "local_and_aggregate",
    "warmfed.epochs-aggregate": lambda r: r.generates and not r.one_shot,
    "warmfed.regenerate-each-round": lambda r: r.generates and not r.one_shot,
    **{f"warmfed.{name}": lambda r: r["warmfed.selection"] != "never" for name in (
        "teacher-first", "distill-weight", "temperature",
    )},
    "warmfed.teacher-epochs": lambda r: r.taught,
}  # fmt: skip
