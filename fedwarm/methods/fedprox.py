"""FedProx: Li, Sahu, Zaheer, Sanjabi, Talwalkar, Smith, "Federated Optimization in Heterogeneous Networks", arXiv 1812.06127."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedwarm.methods import Method
from fedwarm.settings.fields import Group, setting
from fedwarm.training.loop import Batch, Hook


@dataclass(frozen=True)
class FedProx(Group, prefix="fedprox"):
    """Settings of FedProx."""

    mu: float = setting(0.1, "mu, weight of the proximal term; 0: FedAvg", low=0.0)


class ProximalTerm(Hook):
    """Adds mu/2 ||w - w^t||^2, the distance to the weights the round began with (arXiv 1812.06127, eq. 2)."""

    uses = "weights"
    stacked = ("_start",)

    def __init__(self, settings: FedProx) -> None:
        self.mu = settings.mu
        self._start: list[Tensor] = []

    def prepare(self, model: nn.Module) -> None:
        self._start = [p.detach().clone() for p in model.parameters()]

    def loss(self, batch: Batch, loss: Tensor) -> Tensor:
        if not self.mu:
            return loss
        distances = [(p - w).square().sum() for p, w in zip(batch.model.parameters(), self._start, strict=True)]
        return loss + self.mu / 2 * torch.stack(distances).sum()


COMPONENT = Method(
    "FedProx", "FedAvg with a proximal term in the local loss (Li et al., 2020)", FedProx, hooks=(ProximalTerm,), stacks=True
)
