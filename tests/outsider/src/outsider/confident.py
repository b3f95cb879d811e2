"""An objective: the entropy of the predictions is made smaller beside the task's loss."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from fedwarm.objectives import Objective
from fedwarm.settings.fields import Group, setting
from fedwarm.training.loop import Batch, Hook


@dataclass(frozen=True)
class Confident(Group, prefix="confident"):
    """Settings of the objective."""

    weight: float = setting(0.1, "weight of the entropy; 0 is plain", low=0.0)


class Entropy(Hook):
    """Adds weight * H(p), the mean entropy of the predictions."""

    uses = "example"

    def __init__(self, settings: Confident) -> None:
        self.weight = settings.weight

    def loss(self, batch: Batch, loss: Tensor) -> Tensor:
        logs = batch.logits.log_softmax(1)
        return loss - self.weight * (logs.exp() * logs).sum(1).mean()


COMPONENT = Objective("predictions of low entropy", settings=Confident, hooks=(Entropy,))
