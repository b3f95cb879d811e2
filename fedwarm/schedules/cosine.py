"""Half a wave of the cosine."""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, pi

from fedwarm.schedules import ROUNDS
from fedwarm.settings.config import Config
from fedwarm.settings.fields import Group, setting
from fedwarm.settings.registry import component


@dataclass(frozen=True)
class Cosine(Group, prefix="cosine"):
    """Settings of the cosine schedule."""

    least: float = setting(0.0, "learning rate at the end, as a fraction of the full one", low=0.0, high=1.0)


def fixed_rounds(config: Config) -> str:
    """Why a run cannot be made longer: every round's step size depends on how many there are."""
    over = config.run.schedule_over
    return "the step sizes of its cosine schedule depend on how many rounds there are" if over == ROUNDS else ""


@component(settings=Cosine, fixed_rounds=fixed_rounds)
def cosine(done: int, total: int, settings: Cosine) -> float:
    """The step size falls by half a cosine, never quite to its least (Loshchilov and Hutter, arXiv 1608.03983, eq. 5)."""
    return settings.least + (1 - settings.least) * (1 + cos(pi * min(done, total) / total)) / 2


COMPONENT = cosine
