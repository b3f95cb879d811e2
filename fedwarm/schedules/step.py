"""A step size that falls every so often."""

from __future__ import annotations

from dataclasses import dataclass

from fedwarm.settings.fields import Group, setting
from fedwarm.settings.registry import component


@dataclass(frozen=True)
class Step(Group, prefix="step"):
    """Settings of the step schedule."""

    every: int = setting(
        10, "rounds or local steps (schedule-over) after which the learning rate is multiplied by step.factor", low=1
    )
    factor: float = setting(0.1, "factor of the learning rate, applied every step.every rounds or steps", low=1e-6, high=1.0)


@component(settings=Step)
def step(done: int, total: int, settings: Step) -> float:
    """The step size is multiplied by a factor after every so many rounds or local steps."""
    return float(settings.factor ** (done // settings.every))


COMPONENT = step
