"""Class-weighted cross-entropy: every class counts the same at a client, however many examples it has of it.

King, Zeng, "Logistic Regression in Rare Events Data", Political Analysis 9 (2001), with weights by a client's own counts:
w_c = n / (classes present * n_c) to a power, scaled so that an example's weight is 1 in the mean.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fedwarm.objectives import Objective
from fedwarm.settings.fields import Group, setting
from fedwarm.training.loop import Batch, Hook


@dataclass(frozen=True)
class ClassWeighted(Group, prefix="class-weighted"):
    """Settings of the objective `class-weighted`."""

    power: float = setting(
        1.0,
        "how far weights go from equal (0) to the inverse of a client's examples of a class (1)",
        low=0.0,
        high=2.0,
    )


def weights(labels: Tensor, power: float) -> Tensor:
    """The weight of each class by labels (n,), whose mean over the examples is 1; 0 of a class without examples."""
    counts = torch.bincount(labels).double()
    raw = torch.where(counts > 0, counts.clamp(min=1) ** -power, torch.zeros_like(counts))
    return (raw * counts.sum() / (raw * counts).sum()).float()


class Weighted(Hook):
    """Exchanges the mean cross-entropy of a batch for the weighted one; terms of others stay as they are."""

    def __init__(self, settings: ClassWeighted) -> None:
        self.settings = settings

    def given(self, labels: Tensor) -> None:
        self.weights = weights(labels.cpu(), self.settings.power)

    def loss(self, batch: Batch, loss: Tensor) -> Tensor:
        extra = self.weights.to(batch.logits.device)[batch.labels] - 1
        return loss + (extra * F.cross_entropy(batch.logits, batch.labels, reduction="none")).mean()


COMPONENT = Objective(
    "every class counts the same, however many examples a client has of it",
    ClassWeighted,
    hooks=(Weighted,),
    classed=True,
    answered=True,
)
