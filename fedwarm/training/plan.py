"""How long, how fast, by which optimiser and for which task a model is trained."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import ceil

import torch
from torch import nn

from fedwarm.schedules import ROUNDS, STEPS, factor_of
from fedwarm.settings.config import General
from fedwarm.settings.fields import Group
from fedwarm.settings.kinds import OPTIMISERS
from fedwarm.settings.registry import own_of


@dataclass(frozen=True)
class Plan:
    """How long and how fast to train.

    Attributes:
        own_settings: those of the run's components of training.
        run: the settings that a schedule over local steps follows; None: steps are alike, as where a training has a step size of
            its own.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    momentum: float = 0.0
    weight_decay: float = 0.0
    optimiser: str = General.optimiser
    task: str = General.task
    own_settings: tuple[Group, ...] = ()
    run: General | None = field(default=None, repr=False, compare=False)

    @classmethod
    def of(cls, run: General, epochs: int | None = None, learning_rate: float = 0.0, number: int = 1) -> Plan:
        """The plan that the run's settings state for round `number`, with other epochs and another step size if given."""
        return cls(
            run.local_epochs if epochs is None else epochs,
            run.batch_size,
            learning_rate or rate_of(run, number),
            run.momentum,
            run.weight_decay,
            run.optimiser,
            run.task,
            run.own_settings,
            None if learning_rate else run,
        )

    def optimiser_of(self, parameters: Iterable[nn.Parameter], steps: int = 0) -> torch.optim.Optimizer:
        """The optimiser over these parameters; it takes `steps` steps, where a schedule over local steps is to know."""
        make = OPTIMISERS.load(self.optimiser)
        made: torch.optim.Optimizer = make(parameters, self, *own_of(make, self.own_settings))
        factors = [] if self.run is None else factors_of(self.run, steps)
        if any(factor != 1 for factor in factors):
            made.register_step_pre_hook(_Pace(made, factors))
        return made


class _Pace:
    """A hook before an optimiser's steps: each has its own size."""

    def __init__(self, optimiser: torch.optim.Optimizer, factors: Sequence[float]) -> None:
        self.full, self.left = [group["lr"] for group in optimiser.param_groups], iter(factors)

    def __call__(self, optimiser: torch.optim.Optimizer, *given: object) -> None:
        factor = next(self.left)
        for group, full in zip(optimiser.param_groups, self.full, strict=True):
            group["lr"] = factor * full


def rate_of(run: General, number: int) -> float:
    """Step size in a round, counted from 1; what is trained before the first has the first's."""
    done = max(1, number) - 1
    return run.learning_rate * run.learning_rate_decay**done * factor_of(run, ROUNDS, done, run.num_server_rounds)


def factors_of(run: General, steps: int) -> list[float]:
    """What the step size of each of a round's local steps is multiplied by."""
    return [factor_of(run, STEPS, done, steps) for done in range(steps)]


def path_of(run: General, number: int, steps: int) -> float:
    """How far so many local steps of a round lead along a constant gradient of length 1, by an optimiser that says so.

    Methods that work gradients out of where clients ended divide by it; they refuse the optimisers that cannot say.
    """
    optimiser, rate = OPTIMISERS.load(run.optimiser), rate_of(run, number)
    rates = [rate * factor for factor in factors_of(run, steps)]
    return float(optimiser.path(rates, run.momentum, *own_of(optimiser, run.own_settings)))


def steps_of(examples: int, batch_size: int, epochs: int) -> int:
    """Steps of so many epochs: as many with private training as without."""
    return epochs * ceil(examples / batch_size)
