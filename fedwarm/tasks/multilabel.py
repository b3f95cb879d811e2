"""Several labels an example, each of which it has or has not."""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from fedwarm.tasks import Task


class Multilabel(Task):
    """Binary cross-entropy of a logit for each label, mean over labels; a logit above 0 says that the label is there."""

    targets: ClassVar[str] = "labels"
    counted: ClassVar[bool] = False

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(outputs, labels.to(outputs.dtype))

    def predicted(self, outputs: Tensor) -> Tensor:
        return outputs.sigmoid()


COMPONENT = Multilabel
