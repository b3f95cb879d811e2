"""How good a classifier is: counts of correct answers that add up over clients, and what is made of them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fedwarm.data.tables import Rows, Table
from fedwarm.models import to_input
from fedwarm.tasks import Task, made

AT_ONCE, BATCH = 4096, 512


@torch.no_grad()
def _outputs(model: nn.Module, images: Tensor, batch_size: int, task: Task) -> list[Tensor]:
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    parts = [task.outputs(model, to_input(part.to(device)), None).cpu() for part in images.split(batch_size)]
    model.train(training)
    return parts


@torch.no_grad()
def predict(model: nn.Module, images: Tensor, batch_size: int = BATCH) -> Tensor:
    """The model's outputs, e.g. logits (n, classes), on the CPU of inputs (n, *shape), in evaluation mode."""
    return torch.cat(_outputs(model, images, batch_size, Task()))


@torch.no_grad()
def correct(model: nn.Module, images: Tensor, labels: Tensor, task: Task | None = None) -> int:
    """How many of the images the model is right about in a task, classification where none is given; none of none."""
    if not len(labels):
        return 0
    task = task or made()
    found = zip(_outputs(model, images, BATCH, task), labels.split(BATCH), strict=True)
    return sum(task.right(outputs, part) for outputs, part in found)


def correct_rows(model: nn.Module, table: Table, rows: Rows, task: Task | None = None) -> int:
    """How many images of a table's rows (m,) the model is right about; only some of them are in memory at once."""
    parts = (rows[start : start + AT_ONCE] for start in range(0, len(rows), AT_ONCE))
    return sum(correct(model, table.images(part), table.answers(part), task) for part in parts)
