"""Which settings can change the numbers of a run: those of a part that the run does not use can not.

Runs that differ in such settings alone are the same run, and a label that named them would mislead.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from fedwarm.methods import METHODS

SCHEME = ("range", "per-channel", "full-range", "skip-first-last")
ALL_ROBUST = (*SCHEME, "start-round")
ROBUST = {
    "kure": (*ALL_ROBUST, "kure-weight", "kure-target", "kure-warmup"),
    "apqn": (*ALL_ROBUST, "apqn-width", "noise", "noise-scale"),
    "qat": (*ALL_ROBUST, "bits", "quantize-activations"),
    "mqat": (*ALL_ROBUST, "train-bits", "granularity", "quantize-activations"),
    "rq": ("range", "per-channel", "start-round"),
}
PROVIDED = {
    "foundation": (
        "pool", "prompt-mode", "prompt", "prompts-file", "phrases", "guidance", "steps", "judge", "judge-least", "judge-tries",
        "refused", "budget-seconds",
    ),
    "file": ("file",),
    "transforms": ("transforms",),
}  # fmt: skip
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
    """Whether a setting can change what a run does."""
    part, _, name = key.rpartition(".")
    if not _reached(part, name, settings, method):
        return False
    if not part or part.replace("-", "_") == method != "quantization_robust":
        return True
    if part == "quantization-robust":
        return name in _robust(settings, method)
    if part == "relaxed-quantization":
        return objective(settings, method) == "rq"
    if part in SWITCHES:
        switch, value = SWITCHES[part]
        return bool(settings.get(switch) == value)
    return part.replace("-", "_") not in METHODS


def _reached(part: str, name: str, settings: Mapping[str, Any], method: str) -> bool:
    """Whether a run comes to where this setting is looked at."""
    if part == "gen-fedsd":
        return _provided(name, str(settings.get("gen-fedsd.provider", "foundation")))
    if part in ("diffusion", "hollowed"):
        return _diffuses(name if part == "diffusion" else "", settings, method)
    if part in ("quantization-robust", "relaxed-quantization") or (part, name) == ("", "objective"):
        return method != "warmfed" or _trains(settings)
    return part != "evaluate" or method != "local_only"


def idle(given: Iterable[str], settings: Mapping[str, Any], method: str) -> list[str]:
    """Those of the settings that somebody gave that change nothing."""
    return sorted(key for key in given if not matters(key, settings, method))


def _provided(name: str, provider: str) -> bool:
    """Whether a setting `gen-fedsd.*` means something to this source of images."""
    return all(name not in names for other, names in PROVIDED.items() if other != provider)


def _trains(settings: Mapping[str, Any]) -> bool:
    """Whether clients of WarmFed train a classifier by the run's objective."""
    return settings.get("warmfed.protocol") == "five-round" or settings.get("warmfed.local-model-source") == "uploaded"


def _diffuses(name: str, settings: Mapping[str, Any], method: str) -> bool:
    """Whether a setting of the foundation, or of its tuning, means something to this run."""
    filled = method == "gen_fedsd" or settings.get("augment") == "gen-fedsd"
    drawn = filled and settings.get("gen-fedsd.provider", "foundation") == "foundation"
    if name in GENERATING and drawn:
        return True
    if method != "warmfed" or not settings.get("warmfed.synthetic-ratio", 1.0):
        return False
    return name in GENERATING or bool(settings.get("warmfed.adapt", True))


def _robust(settings: Mapping[str, Any], method: str) -> tuple[str, ...]:
    """The settings `quantization-robust.*` that are used; those of the scheme by the measurement after training, too."""
    chosen = objective(settings, method)
    measured = SCHEME if settings.get("evaluate.bit-widths") else ()
    own = ("variant",) if method == "quantization_robust" and settings.get("objective", "plain") == "plain" else ()
    drawn = {"sampled": ("train-bits",), "fixed": ("bits",)}.get(str(settings.get("quantization-robust.apqn-width")), ())
    return ("clip", *ROBUST.get(chosen, measured), *own, *(drawn if chosen == "apqn" else ()))
