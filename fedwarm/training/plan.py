"""How long, how fast, by which optimiser and for which task a model is trained."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil

import torch
from torch import nn

from fedwarm.settings.config import General
from fedwarm.settings.fields import Group
from fedwarm.settings.kinds import OPTIMISERS
from fedwarm.settings.registry import own_of


@dataclass(frozen=True)
class Plan:
    """How long and how fast to train; `own_settings`: those of the run's components of training."""

    epochs: int
    batch_size: int
    learning_rate: float
    momentum: float = 0.0
    weight_decay: float = 0.0
    optimiser: str = General.optimiser
    task: str = General.task
    own_settings: tuple[Group, ...] = ()

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
        )

    def optimiser_of(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """The optimiser over these parameters."""
        make = OPTIMISERS.load(self.optimiser)
        made: torch.optim.Optimizer = make(parameters, self, *own_of(make, self.own_settings))
        return made


def rate_of(run: General, number: int) -> float:
    """Step size in a round, counted from 1; what is trained before the first has the first's."""
    return run.learning_rate * run.learning_rate_decay ** (max(1, number) - 1)


def steps_of(examples: int, batch_size: int, epochs: int) -> int:
    """Steps of so many epochs: as many with private training as without."""
    return epochs * ceil(examples / batch_size)
