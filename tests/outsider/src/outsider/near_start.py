"""A method with a loss term: the L1 distance to the weights that the round began with."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedwarm.methods import Method
from fedwarm.settings.fields import Group, setting
from fedwarm.training.loop import Batch, Hook


@dataclass(frozen=True)
class NearStart(Group, prefix="near-start"):
    """Settings of the method."""

    weight: float = setting(1e-3, "weight of the L1 distance; 0 is FedAvg", low=0.0)


class Distance(Hook):
    """Adds weight * ||w - w^t||_1."""

    uses = "weights"

    def __init__(self, settings: NearStart) -> None:
        self.weight = settings.weight

    def prepare(self, model: nn.Module) -> None:
        self.start = [p.detach().clone() for p in model.parameters()]

    def loss(self, batch: Batch, loss: Tensor) -> Tensor:
        distances = [(p - w).abs().sum() for p, w in zip(batch.model.parameters(), self.start, strict=True)]
        return loss + self.weight * torch.stack(distances).sum()


COMPONENT = Method("NearStart", "FedAvg with an L1 term in the local loss", NearStart, hooks=(Distance,))
