"""One local training loop with hooks: model surgery, loss terms, gradient transform, epoch and end.

Methods do not write loops; they hand hooks to `fit`. A hook is called in the order in which it stands in the list.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedwarm.config import General
from fedwarm.models import to_input
from fedwarm.progress import tick


@dataclass(frozen=True)
class Batch:
    """What a loss term may look at: input (b, 3, S, S), labels (b,), logits (b, classes), row indices (b,)."""

    model: nn.Module
    inputs: Tensor
    labels: Tensor
    logits: Tensor
    rows: Tensor


class Hook:
    """A place in the loop for each thing a local objective may do; the defaults do nothing."""

    def prepare(self, model: nn.Module) -> None:
        """Once before the first step: model surgery, reference copies."""

    def epoch(self, model: nn.Module, number: int) -> None:
        """Before each epoch, counted from 0."""

    def loss(self, batch: Batch, loss: Tensor) -> Tensor:
        """The loss with this hook's term."""
        return loss

    def gradient(self, model: nn.Module) -> None:
        """After the backward pass, before the step."""

    def finish(self, model: nn.Module) -> None:
        """Once after the last step."""


@dataclass(frozen=True)
class Plan:
    """How long and how fast to train."""

    epochs: int
    batch_size: int
    learning_rate: float
    momentum: float = 0.0
    weight_decay: float = 0.0

    @classmethod
    def of(cls, run: General, epochs: int | None = None, learning_rate: float = 0.0) -> Plan:
        """The plan that the run's settings state, with other epochs and another step size if given."""
        chosen = run.local_epochs if epochs is None else epochs
        return cls(chosen, run.batch_size, learning_rate or run.learning_rate, run.momentum, run.weight_decay)


@dataclass(frozen=True)
class Fit:
    """Mean training loss of the last epoch, steps taken, examples held."""

    loss: float
    steps: int
    examples: int


def fit(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    plan: Plan,
    generator: torch.Generator,
    hooks: Sequence[Hook] = (),
    stage: str = "train",
) -> Fit:
    """Minimise cross-entropy plus the hooks' terms by SGD over shuffled batches, in place.

    Args:
        model: maps inputs (b, 3, S, S) to logits (b, classes); trained on the device it is on.
        images: uint8 (n, 3, S, S).
        labels: int64 (n,).
        plan: epochs, batch size and optimiser.
        generator: draws the order of the examples and nothing else.
        hooks: terms and transforms of the local objective.
        stage: the name under which progress is told.
    """
    device = next(model.parameters()).device
    for hook in hooks:
        hook.prepare(model)
    optimiser = torch.optim.SGD(model.parameters(), lr=plan.learning_rate, momentum=plan.momentum, weight_decay=plan.weight_decay)
    model.train()
    n, steps, mean = len(labels), 0, 0.0
    images, labels = images.to(device), labels.to(device)
    for epoch in range(plan.epochs):
        for hook in hooks:
            hook.epoch(model, epoch)
        losses = [
            _step(model, optimiser, images, labels, rows, hooks)
            for rows in torch.randperm(n, generator=generator).to(device).split(plan.batch_size)
        ]
        steps += len(losses)
        mean = float(torch.stack(losses).mean()) if epoch == plan.epochs - 1 else mean
        tick(stage, epoch + 1, plan.epochs)
    for hook in hooks:
        hook.finish(model)
    return Fit(mean, steps, n)


def _step(
    model: nn.Module, optimiser: torch.optim.Optimizer, images: Tensor, labels: Tensor, rows: Tensor, hooks: Sequence[Hook]
) -> Tensor:
    inputs, wanted = to_input(images[rows]), labels[rows]
    logits = model(inputs)
    loss = F.cross_entropy(logits, wanted)
    batch = Batch(model, inputs, wanted, logits, rows)
    for hook in hooks:
        loss = hook.loss(batch, loss)
    optimiser.zero_grad()
    loss.backward()
    for hook in hooks:
        hook.gradient(model)
    optimiser.step()
    return loss.detach()
