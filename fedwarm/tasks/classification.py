"""Classification."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from fedwarm.tasks import Task


class Classification(Task):
    """Cross-entropy of logits; the largest logit is the answer."""

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(outputs, labels)

    def right(self, outputs: Tensor, labels: Tensor) -> int:
        return int((outputs.argmax(1) == labels).sum())

    def predicted(self, outputs: Tensor) -> Tensor:
        return outputs.softmax(1)


COMPONENT = Classification
