"""How good a classifier is: counts of correct answers that add up over clients, and what is made of them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fedwarm.data.tables import Rows, Table
from fedwarm.models import to_input

AT_ONCE = 4096


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
    """How many of the images the model labels right; none of none."""
    if not len(labels):
        return 0
    return int((predict(model, images).argmax(1) == labels).sum())


def correct_rows(model: nn.Module, table: Table, rows: Rows) -> int:
    """How many images of a table's rows (m,) the model labels right; only some of them are in memory at once."""
    parts = (rows[start : start + AT_ONCE] for start in range(0, len(rows), AT_ONCE))
    return sum(correct(model, table.images(part), torch.from_numpy(table.label.codes[part])) for part in parts)
