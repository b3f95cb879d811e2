"""An optimiser with a setting of its own."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from fedwarm.settings.fields import Group, setting
from fedwarm.settings.registry import component
from fedwarm.training.plan import Plan


@dataclass(frozen=True)
class Signed(Group, prefix="signed"):
    """Settings of the optimiser."""

    power: float = setting(0.0, "power of a gradient that a step goes by; 0: its sign alone, 1: the gradient", low=0.0, high=1.0)


class Signs(torch.optim.Optimizer):
    """w <- w - r sign(g) |g|^power."""

    def __init__(self, parameters: Iterable[nn.Parameter], rate: float, power: float) -> None:
        super().__init__(parameters, {"lr": rate, "power": power})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.add_(p.grad.sign() * p.grad.abs() ** group["power"], alpha=-group["lr"])


@component(settings=Signed)
def signed(parameters: Iterable[nn.Parameter], plan: Plan, settings: Signed) -> torch.optim.Optimizer:
    """Steps along the signs of gradients (Bernstein et al., arXiv 1802.04434)."""
    return Signs(parameters, plan.learning_rate, settings.power)
