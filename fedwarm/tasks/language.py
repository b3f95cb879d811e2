"""Language: the next token of each place of a text."""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from fedwarm.tasks import Task

IGNORED = -100


class Language(Task):
    """Cross-entropy of logits (b, T, V) against the next tokens (b, T), mean over tokens; those at -100 are not asked for."""

    targets: ClassVar[str] = "tokens"
    counted: ClassVar[bool] = False

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        summed = F.cross_entropy(outputs.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum")
        return summed / (labels != IGNORED).sum().clamp(min=1)

    def predicted(self, outputs: Tensor) -> Tensor:
        return outputs.softmax(-1)

    def examples(self, targets: Tensor) -> int:
        return int((targets != IGNORED).sum())


COMPONENT = Language
