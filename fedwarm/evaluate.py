"""How good a classifier is: counts of correct answers that add up over clients, and what is made of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fedwarm.models import to_input


@torch.no_grad()
def predict(model: nn.Module, images: Tensor, batch_size: int = 512) -> Tensor:
    """Logits (n, classes) on the CPU of uint8 images (n, 3, S, S), in evaluation mode."""
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    parts = [model(to_input(part.to(device))).cpu() for part in images.split(batch_size)]
    model.train(training)
    return torch.cat(parts)


def correct(model: nn.Module, images: Tensor, labels: Tensor) -> int:
    """How many of the images the model labels right."""
    return int((predict(model, images).argmax(1) == labels).sum())


def pooled_accuracy(corrects: Sequence[int], totals: Sequence[int]) -> float:
    """Accuracy over the union of the clients' test images."""
    return sum(corrects) / sum(totals)


def worst_tenth(accuracies: Sequence[float]) -> float:
    """Mean accuracy of the worst tenth of the clients (at least one)."""
    count = max(1, len(accuracies) // 10)
    return sum(sorted(accuracies)[:count]) / count
