"""What methods are made of: formulas and settings, pure functions and frozen dataclasses.

The table below is the one list of methods; strategies and clients carry the same names.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module

from fedwarm.settings.config import Group, SettingError, near


@dataclass(frozen=True)
class Entry:
    """One method: `settings` is the name of its dataclass in `fedwarm.methods.<name>`, empty where it has none."""

    summary: str
    settings: str = ""


METHODS: dict[str, Entry] = {
    "warmfed": Entry("clients LoRA-tune a diffusion model, the server trains on its images, clients distil", "WarmFed"),
    "fedavg": Entry("weighted average of locally trained weights (McMahan et al., 2017)"),
    "fedprox": Entry("FedAvg with a proximal term in the local loss (Li et al., 2020)", "FedProx"),
    "scaffold": Entry("control variates against the drift of unlike clients (Karimireddy et al., 2020)", "Scaffold"),
    "dp_rec": Entry("differentially private updates as a few bits of shared random code (Triastcyn et al., 2021)", "DpRec"),
    "quantization_robust": Entry("FedAvg whose one model stays good at every bit-width (Gupta et al., 2022)"),
    "gen_fedsd": Entry("FedAvg after each client had the images drawn that its classes lack (Morafah et al., 2024)"),
    "local_only": Entry("baseline: each client trains alone; nothing is shared"),
    "centralized": Entry("reference, not federated: one model trained on everybody's data together"),
}


def canonical(name: str) -> str:
    """The table's name of a method; hyphens count as underscores.

    Raises:
        SettingError: no such method; the message names the near ones.
    """
    found = name.replace("-", "_").lower()
    if found not in METHODS:
        raise SettingError(f"unknown method {name!r}{near(found, list(METHODS))}; there are {', '.join(METHODS)}")
    return found


def method_group(name: str) -> type[Group] | None:
    """The settings of one method, or None."""
    entry = METHODS[canonical(name)]
    if not entry.settings:
        return None
    group: type[Group] = getattr(import_module(f"fedwarm.methods.{canonical(name)}"), entry.settings)
    return group


def method_groups() -> tuple[type[Group], ...]:
    """The settings of all methods."""
    return tuple(group for name in METHODS if (group := method_group(name)) is not None)
