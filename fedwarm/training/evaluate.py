"""How good a model is: counts of right answers and sums of metrics, which add up over clients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from fedwarm.data.tables import Rows, Table
from fedwarm.metrics import Adds, Metric, Numbers, Sum
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
def predict(model: nn.Module, images: Tensor, batch_size: int = BATCH, task: Task | None = None) -> Tensor:
    """The model's outputs in a task, e.g. logits (n, classes), on the CPU of inputs (n, *shape), in evaluation mode."""
    return torch.cat(_outputs(model, images, batch_size, task or Task()))


@torch.no_grad()
def correct(model: nn.Module, images: Tensor, labels: Tensor, task: Task | None = None) -> int:
    """How many of the images the model is right about in a task, classification where none is given; none of none."""
    if not len(labels):
        return 0
    task = task or made()
    found = zip(_outputs(model, images, BATCH, task), labels.split(BATCH), strict=True)
    return sum(task.right(outputs, part) for outputs, part in found)


@dataclass
class Found:
    """What a model came to on some examples.

    Attributes:
        examples: how many there were.
        right: right answers among them, where the task counts these.
        sums: totals by what metrics are made of.
    """

    examples: int = 0
    right: int | None = None
    sums: dict[str, Numbers] = field(default_factory=dict)


class Measuring:
    """Measures models on examples in one pass.

    Args:
        task: of the run.
        metrics: by name.
        width: of the model's head.
    """

    def __init__(self, task: Task, metrics: Mapping[str, Metric], width: int) -> None:
        self.task = task
        self.parts: dict[str, Sum] = {}
        for metric in metrics.values():
            one = metric.sum_of(task.targets)
            assert one is not None
            self.parts[one.name] = one
        self.adding: dict[str, Adds] = {name: part.begin(task, width) for name, part in self.parts.items()}
        self.found = Found(right=0 if task.counted and task.answers else None)

    @torch.no_grad()
    def add(self, model: nn.Module, images: Tensor, labels: Tensor) -> None:
        """Take some examples; none change nothing."""
        if not len(labels):
            return
        for outputs, part in zip(_outputs(model, images, BATCH, self.task), labels.split(BATCH), strict=True):
            self.found.examples += len(part)
            if self.found.right is not None:
                self.found.right += self.task.right(outputs, part)
            for each in self.adding.values():
                each.add(outputs, part)

    def rows(self, model: nn.Module, table: Table, rows: Rows) -> Found:
        """What comes of a table's rows (m,), of which only some are in memory at once."""
        for start in range(0, len(rows), AT_ONCE):
            part = rows[start : start + AT_ONCE]
            self.add(model, table.images(part), table.answers(part))
        return self.done()

    def done(self) -> Found:
        """What came of all."""
        if self.found.examples:
            self.found.sums = {name: each.total().numpy() for name, each in self.adding.items()}
        return self.found
