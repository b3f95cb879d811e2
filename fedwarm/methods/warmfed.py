"""WarmFed: Feng, Zhang, Li, Huang, Liu, Wang, "WarmFed: Federated Learning with Warm-Start for Globalization and Personalization
Via Personalized Diffusion Models", arXiv 2503.03110 (2025).

Here are the settings and the number of images to generate; the rules of dynamic selection are `fedwarm.training.selection`. Where
the paper's public text states no value, the setting is a choice of ours and its alternatives stay settings.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedwarm.methods import Method
from fedwarm.settings.config import Config
from fedwarm.settings.fields import Group, SettingError, setting
from fedwarm.settings.kinds import PRIVACY

CLASSIFIER = "classifier."
SELECTION, SELECTED = "selection", "selected"  # of the record; of a reply: the share of its images that a client's rule selected
TUNING, EVERY, START, FADING = "warmfed.server-tuning", "every", "start", "fading"
SCORED = ("sample_better", "sample_correct", "always")  # rules that look at training images
COMPARED = ("class_better", "model_best")  # rules that compare models on a fifth of the images, which is held out
RULES = ("sample_better", "sample_correct", "class_better", "model_best", "always", "never")


@dataclass(frozen=True)
class WarmFed(Group, prefix="warmfed"):
    """Settings of WarmFed."""

    protocol: str = setting(
        "one-shot", "one-shot: one upload, one download; five-round: num-server-rounds rounds after the warm start",
        choices=("one-shot", "five-round"),
    )  # fmt: skip
    adapt: bool = setting(
        True, "clients tune and send adapters; false: the server generates images from prompts alone",
        when=lambda r: r.generates and not r["warmfed.pool"],
    )  # fmt: skip
    adapters: str = setting(
        "", "adapters that clients of an earlier run sent, RUN/adapters, to draw other or more images from; empty: tune new ones",
        path=True, when=lambda r: r.generates and r["warmfed.adapt"] and not r["warmfed.pool"],
    )  # fmt: skip
    pool: str = setting(
        "", "images that an earlier run of the same clients drew, RUN/pool/pool-0.safetensors, in place of adapters and drawing; "
        "empty: draw", path=True, when=lambda r: r.generates,
    )  # fmt: skip
    warm_model: str = setting(
        "", "warm model that such a run trained on these images, for one shot RUN/model.safetensors, in place of training it; "
        "empty: train it", path=True, when=lambda r: r.generates and bool(r["warmfed.pool"]),
    )  # fmt: skip
    prompt: str = setting(
        "a photo of a {class}", "prompt for the foundation; {class} stands for the name of the class, {style} for a client's "
        "phrase of warmfed.styles", when=lambda r: r.generates,
    )  # fmt: skip
    styles: str = setting(
        "", "what stands for {style} in the clients' prompts, with semicolons: 'in chalk; in ink'; client i has phrase i modulo "
        "their number", when=lambda r: r.generates and "{style}" in r["warmfed.prompt"],
    )  # fmt: skip
    synthetic_ratio: float = setting(2.0, "generated images of a client, as a multiple of its private ones; 0: none", low=0.0)
    min_per_class: int = setting(
        20, "least number of generated images of each class that a client holds", low=0, when=lambda r: r.generates
    )
    finetune_targets: str = setting(
        "local_and_aggregate",
        "models that the server trains on generated images; local_and_aggregate: each client's and their average; "
        "aggregate_only: the average", choices=("local_and_aggregate", "aggregate_only"), when=lambda r: _tunes(r),
    )  # fmt: skip
    local_model_source: str = setting(
        "server_synth",
        "local models of the warm start; server_synth: trained at the server on generated images; uploaded: trained on "
        "the client's data, then uploaded", choices=("server_synth", "uploaded"), when=lambda r: r.adapts,
    )  # fmt: skip
    epochs_local: int = setting(
        2, "server epochs over a client's generated images (local models)", low=0,
        when=lambda r: _tunes(r) and r["warmfed.finetune-targets"] == "local_and_aggregate",
    )  # fmt: skip
    server_tuning: str = setting(
        FADING,
        "rounds in which the server trains on generated images; every: before the first round and after each; start: only "
        "before the first; fading: after round r of R with 1 - r/R of the learning rate",
        choices=(EVERY, START, FADING), when=lambda r: r.generates and r.rounds,
    )  # fmt: skip
    epochs_aggregate: int = setting(
        2, "server epochs over all generated images (average), after a round", low=0,
        when=lambda r: r.generates and r.rounds and r[TUNING] != START,
    )  # fmt: skip
    epochs_warm: int = setting(
        30, "server epochs over all generated images (average), in the warm start", low=0, when=lambda r: _warms(r)
    )
    server_learning_rate: float = setting(
        0.005, "learning rate of the server's training on generated images; 0: learning-rate", low=0.0, when=lambda r: _tunes(r)
    )
    regenerate_each_round: bool = setting(
        False, "true: generate new images for each round; false: reuse the first ones",
        when=lambda r: r.generates and r.rounds and r[TUNING] != START and not r["warmfed.pool"],
    )  # fmt: skip
    selection: str = setting(
        "sample_better",
        "examples that are distilled; sample_better: those with a lower loss of the teacher; sample_correct: those that "
        "the teacher labels right; class_better: those of classes that the teacher labels better; model_best: all, from the "
        "best earlier model (both train on 4/5 of a client's images and compare on the rest; under 5: never); always; never",
        choices=RULES,
    )
    teacher_first: str = setting(
        "local",
        "first teacher; local: trained on the client's own data from the shared start; synth: the warm model",
        choices=("local", "synth"), when=lambda r: r["warmfed.selection"] != "never",
    )  # fmt: skip
    teacher_epochs: int = setting(20, "epochs of the first teacher on the client's data", low=1, when=lambda r: r.taught)
    teacher_folds: int = setting(
        1,
        "number of parts of a client's images; each is scored by a first teacher trained on the others, which then "
        "teaches in all rounds; 1: one teacher scores the images that it was trained on",
        low=1, high=20, when=lambda r: r.taught and r["warmfed.selection"] in SCORED and r["warmfed.teacher-first"] == "local",
    )  # fmt: skip
    distill_epochs: int = setting(10, "epochs of a personal model on the client's data", low=1)
    distill_learning_rate: float = setting(0.005, "learning rate of a personal model's SGD; 0: learning-rate", low=0.0)
    distill_weight: float = setting(
        1.0, "lambda, weight of the distillation term", low=0.0, when=lambda r: r["warmfed.selection"] != "never"
    )
    temperature: float = setting(
        1.0, "T, temperature of the distillation term", low=1e-3, when=lambda r: r["warmfed.selection"] != "never"
    )

    @property
    def warmed(self) -> bool:
        """Whether the warm model is another run's."""
        return bool(self.pool and self.warm_model)

    @property
    def adapts(self) -> bool:
        """Whether clients tune adapters and send them."""
        return self.attaches and not self.adapters

    @property
    def attaches(self) -> bool:
        """Whether images are drawn from adapters, of this run or an earlier one."""
        return self.adapt and self.synthetic_ratio > 0 and not self.pool

    @property
    def local_epochs(self) -> int:
        """Epochs of the local models of the warm start at the server."""
        return self.epochs_local if self.finetune_targets == "local_and_aggregate" else 0

    @property
    def joins(self) -> bool:
        """Whether the warm start begins with an average of local models."""
        return bool(self.local_epochs) or (self.adapts and self.local_model_source == "uploaded")

    def sentences(self, config: Config, classes: Sequence[str]) -> list[str]:
        """What the foundation is asked for, by style and class (see `fedwarm.diffusion.asking`)."""
        from fedwarm.diffusion.asking import asked
        from fedwarm.diffusion.settings import Diffusion

        return asked(self.prompt, config.of(Diffusion).foundation, classes, self.styles)


def _warms(run: Any) -> bool:
    """Whether the server trains a warm model of its own."""
    return bool(run["warmfed.synthetic-ratio"]) and not (run["warmfed.pool"] and run["warmfed.warm-model"])


def _tunes(run: Any) -> bool:
    """Whether the server trains on generated images at all."""
    rounds = run["warmfed.protocol"] != "one-shot" and run[TUNING] != START
    return _warms(run) or (rounds and bool(run["warmfed.synthetic-ratio"]))


def tuning_factor(settings: WarmFed, number: int, rounds: int) -> float:
    """What the server's step size is multiplied by after round `number` of `rounds`, from 0 (no training) to 1."""
    return {EVERY: 1.0, START: 0.0, FADING: max(0.0, 1 - number / rounds)}[settings.server_tuning]


def quota(settings: WarmFed, examples: int, classes_present: int) -> int:
    """Images to generate per present class: `synthetic_ratio` times the client's examples, balanced over its classes.

    At least `min_per_class`; none where the ratio is 0 or no class is present.
    """
    if settings.synthetic_ratio == 0 or classes_present == 0:
        return 0
    return max(settings.min_per_class, round(settings.synthetic_ratio * examples / classes_present))


ONE_SHOT = "warmfed.protocol = 'one-shot' has no rounds"
FADES = "with warmfed.server-tuning = 'fading' the server's step size in a round hangs on how many there are"


def fixed_rounds(config: Config) -> str:
    """Why a run cannot be made longer; empty where it can."""
    settings = config.of(WarmFed)
    if settings.protocol == "one-shot":
        return ONE_SHOT
    return FADES if settings.server_tuning == FADING and settings.synthetic_ratio > 0 else ""


def does(run: Any) -> dict[str, bool]:
    """What a run of WarmFed does, by its settings."""
    one_shot, generates = run["warmfed.protocol"] == "one-shot", bool(run["warmfed.synthetic-ratio"])
    attaches = generates and bool(run["warmfed.adapt"]) and not run["warmfed.pool"]
    adapts = attaches and not run["warmfed.adapters"]
    tuned = _tunes(run) and run["warmfed.finetune-targets"] == "local_and_aggregate" and run["warmfed.epochs-local"] > 0
    uploaded = adapts and run["warmfed.local-model-source"] == "uploaded"
    tuned = tuned or uploaded
    averages, rule = not one_shot or tuned, run["warmfed.selection"]
    taught = rule != "never" and (run["warmfed.teacher-first"] == "local" or rule == "model_best")
    return {
        "trains": not one_shot or uploaded,
        "uploads": not one_shot or adapts,
        "averages": averages,
        "weighs": averages,
        "samples": False,
        "personal": True,
        "late": True,
        "rounds": not one_shot,
        "taught": taught,
        "begins": taught or uploaded,
        "steps": taught or not run["warmfed.distill-learning-rate"] or (_tunes(run) and not run["warmfed.server-learning-rate"]),
        "generates": generates,
        "adapts": adapts,
        "attaches": attaches,
    }


def reach(run: Any, config: Config, clients: int) -> Iterator[str]:
    """How many images and adapters there will be, and how long they take; a SettingError where that is too long."""
    from fedwarm.data.settings import Data
    from fedwarm.data.shards import partition_table
    from fedwarm.diffusion.hours import Work, told

    settings, data = config.of(WarmFed), config.of(Data)
    if settings.synthetic_ratio and not data.own and not settings.pool:
        held = [(sum(row), sum(map(bool, row))) for row in partition_table(data, config.run.seed, clients)]
        images = sum(present * quota(settings, examples, present) for examples, present in held)
        if not images:
            raise SettingError("warmfed.synthetic-ratio and warmfed.min-per-class come to no image at all; raise one of them")
        yield told(config, Work(tuple(examples for examples, _ in held) if settings.adapts else (), images))


def check(config: Config, known: Any) -> None:
    """See before a run that the sentences, the adapters' plan and an earlier run's files can be, or raise a SettingError."""
    from fedwarm.data.settings import Data
    from fedwarm.diffusion.adapters import check_adapters
    from fedwarm.diffusion.asking import styled
    from fedwarm.diffusion.pool import check_pool
    from fedwarm.diffusion.sentences import prompts
    from fedwarm.diffusion.tuners import tuner_for

    settings = config.of(WarmFed)
    styles = [prompts(each, ["x"]) for each in styled(settings.prompt, settings.styles)]
    if len(styles) > known.clients:
        raise SettingError(f"warmfed.styles has {len(styles)} phrases for {known.clients} clients; leave some out")
    if settings.adapts:
        tuner_for(config).check_before(known.clients)
    taken = dict(earlier(config))
    for key, path in taken.items():
        if config.run.privacy != PRIVACY.first:
            raise SettingError(
                f"{key} = {path!r} is of another run, whose privacy no account of this one holds; leave it empty, or set "
                f"privacy = {PRIVACY.first!r}"
            )
    if "warmfed.adapters" in taken:
        check_adapters(Path(settings.adapters), config, known.clients)
    elif taken:
        sentences = settings.sentences(config, known.classes) if known.classes else ()
        check_pool(Path(settings.pool), sentences, known.clients, config.of(Data).image_size)
        if settings.warmed and not Path(settings.warm_model).is_file():
            raise SettingError(f"warmfed.warm-model = {settings.warm_model!r} is no file; name RUN/model.safetensors")
    tuple(reach(None, config, known.clients))


def earlier(config: Config) -> Iterator[tuple[str, str]]:
    """The settings that name files of an earlier run, and their values, where they are in force."""
    settings = config.of(WarmFed)
    if settings.attaches and settings.adapters:
        yield "warmfed.adapters", settings.adapters
    elif settings.pool and settings.synthetic_ratio:
        yield "warmfed.pool", settings.pool
        yield from [("warmfed.warm-model", settings.warm_model)] if settings.warmed else []


COMPONENT = Method(
    "WarmFed",
    "clients LoRA-tune a diffusion model, the server trains on its images, clients distil",
    WarmFed,
    averages=False,
    pictures=True,
    classed=True,
    answered=True,
    does=does,
    reach=reach,
    check=check,
    earlier=earlier,
    fixed_rounds=fixed_rounds,
    refuses={"augment": "draws images of its own"},
)
