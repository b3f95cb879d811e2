"""One local training loop with hooks: model surgery, loss terms, gradient transform, epoch and end.

Methods do not write loops; they hand hooks to `fit`. A hook is called in the order in which it stands in the list.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import nan
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fedwarm.core import sums
from fedwarm.core.progress import tick
from fedwarm.models import to_input
from fedwarm.norms import mixing
from fedwarm.settings.fields import SettingError
from fedwarm.tasks import Task, made
from fedwarm.training.dropout import own_draws
from fedwarm.training.plan import Plan as Plan
from fedwarm.training.plan import steps_of as steps_of
from fedwarm.training.private import Mechanism, Receipt


@dataclass(frozen=True)
class Batch:
    """A batch for a loss term: inputs (b, *shape), targets (b, ..), rows (b,), and the task's outputs, e.g. (b, classes)."""

    model: nn.Module
    inputs: Tensor
    labels: Tensor
    logits: Tensor
    rows: Tensor


class Hook:
    """Extension points of the local training loop; the defaults do nothing.

    `uses` says what a hook looks at beside what was public before the round; private training refuses what it cannot cover.
    `weights`: the model alone. Its loss term's gradient is added after the noise, unclipped, and it is shown no example.
    `example`: its loss term is a mean over the batch of something of each example alone, and is clipped with it.
    `batch`: more than that, e.g. examples together, or a teacher that learned from them; not with private training.
    `stacked` says that clients with this hook can train together (see `training.cohort`): its use is `weights`, it has no say in
    single steps, and these attributes, tensors or lists of them, are all that differs between clients; None: it cannot.
    """

    uses: ClassVar[str] = "batch"
    stacked: ClassVar[tuple[str, ...] | None] = None

    def given(self, labels: Tensor) -> None:
        """Called once before `prepare`, with the targets (n, ..) that the model is to learn."""

    def prepare(self, model: nn.Module) -> None:
        """Called once before the first step, e.g. to change the model or copy its weights."""

    def epoch(self, model: nn.Module, number: int) -> None:
        """Called before each epoch; `number` counts from 0."""

    def loss(self, batch: Batch, loss: Tensor) -> Tensor:
        """Return the loss with this hook's term."""
        return loss

    def again(self, model: nn.Module, retake: Callable[[], Tensor]) -> None:
        """Called after the backward pass, before all hooks' `gradient`, e.g. for a second pass.

        `retake()` puts the gradients in place that the loss of the same examples, with all terms, has at the model's weights of
        that moment, and gives that loss. Private training does not call this, so a hook that has it says `uses = "batch"`.
        """

    def gradient(self, model: nn.Module) -> None:
        """Called after the backward pass, before the optimiser's step."""

    def finish(self, model: nn.Module) -> None:
        """Called once after the last step."""


@dataclass(frozen=True)
class Fit:
    """Outcome of a local training.

    Attributes:
        loss: mean training loss of the last epoch; NaN where training was private, as no noise would cover it.
        steps: taken.
        examples: held.
        spent: what the account needs, where training was private.
    """

    loss: float
    steps: int
    examples: int
    spent: Receipt | None = None


@own_draws
def fit(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    plan: Plan,
    generator: torch.Generator,
    hooks: Sequence[Hook] = (),
    stage: str = "train",
    private: Mechanism | None = None,
) -> Fit:
    """Minimise the task's loss plus the hooks' terms over shuffled batches by the plan's optimiser, in place.

    Where layers look at a batch's examples together, a last batch of one example goes with the one before.

    Args:
        model: maps inputs (b, *shape) to what the task takes, e.g. logits (b, classes); trained on the device it is on.
        images: inputs, uint8 (n, 3, S, S) of pictures, else (n, *shape) as the data set has them.
        labels: targets, int64 (n,) of classes, else (n, ..) as the task wants them.
        plan: epochs, batch size, optimiser and task.
        generator: draws the order of the examples, and what the task draws; classification nothing. Its seed is that of what
            layers draw, as dropout does.
        hooks: terms and transforms of the local objective.
        stage: the name under which progress is told.
        private: makes each step private at the level of examples: as many steps, on Poisson samples of `plan.batch_size` examples
            by expectation, that are drawn by its own source.

    Raises:
        SettingError: private training with a task, a hook or a model that it does not cover, or without examples; layers that
            need two examples, and batches of one.
    """
    device, n, task = next(model.parameters()).device, len(labels), made(plan.task, plan.own_settings)
    spent = None if private is None else _spent(private, plan, n, task, hooks)
    for hook in hooks:
        hook.given(labels)
        hook.prepare(model)
    joined = private is None and n > plan.batch_size and n % plan.batch_size == 1 and any(mixing(model))
    optimiser = plan.optimiser_of(model.parameters(), steps_of(n - joined, plan.batch_size, plan.epochs))
    model.train()
    steps, mean = 0, 0.0
    images, labels = images.to(device), labels.to(device)
    noisy = None if private is None else _private(model, optimiser, images, labels, plan, task, hooks, private)
    for epoch in range(plan.epochs):
        for hook in hooks:
            hook.epoch(model, epoch)
        if noisy is not None:
            losses = [noisy() for _ in range(steps_of(n, plan.batch_size, 1))]
        else:
            losses = [
                _step(model, optimiser, images, labels, rows, task, hooks, generator)
                for rows in _batches(torch.randperm(n, generator=generator).to(device), plan.batch_size, joined)
            ]
        steps += len(losses)
        mean = sums.mean(torch.stack(losses).tolist()) if epoch == plan.epochs - 1 else mean
        tick(stage, epoch + 1, plan.epochs)
    for hook in hooks:
        hook.finish(model)
    return Fit(mean, steps, n, spent)


def _batches(order: Tensor, size: int, joined: bool) -> list[Tensor]:
    """An epoch's rows by batch; `joined`: a last one that is alone goes with the batch before."""
    *before, last = order.split(size)
    return [*before[:-1], torch.cat([before[-1], last])] if joined else [*before, last]


def _loss(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    rows: Tensor,
    task: Task,
    hooks: Sequence[Hook],
    draws: torch.Generator | None = None,
) -> Tensor:
    outputs = task.outputs(model, inputs, draws)
    loss = task.loss(outputs, labels)
    batch = Batch(model, inputs, labels, outputs, rows)
    for hook in hooks:
        loss = hook.loss(batch, loss)
    return loss


def _step(
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    images: Tensor,
    labels: Tensor,
    rows: Tensor,
    task: Task,
    hooks: Sequence[Hook],
    draws: torch.Generator,
) -> Tensor:
    inputs, targets, begun = to_input(images[rows]), labels[rows], draws.get_state()

    def taken() -> Tensor:
        draws.set_state(begun)  # every pass sees the same views of the same rows
        try:
            loss = _loss(model, inputs, targets, rows, task, hooks, draws)
        except ValueError as error:
            if len(rows) == 1 and (layer := next(mixing(model), None)):
                raise SettingError(
                    f"layer {layer[0]!r} of the classifier cannot be trained on a batch of one example; raise batch-size to 2 or "
                    "more, take clients with more examples, or use model.norm='group'"
                ) from error
            raise
        optimiser.zero_grad()
        loss.backward()
        return loss.detach()

    loss = taken()
    for hook in hooks:
        hook.again(model, taken)
    for hook in hooks:
        hook.gradient(model)
    optimiser.step()
    return loss


class _Objective(nn.Module):
    """The loss as a module, so that its weights can be swapped while hooks look at the model."""

    def __init__(self, model: nn.Module, task: Task, hooks: Sequence[Hook]) -> None:
        super().__init__()
        self.model, self.task, self.hooks = model, task, hooks

    def forward(self, inputs: Tensor, labels: Tensor, rows: Tensor) -> Tensor:
        return _loss(self.model, inputs, labels, rows, self.task, self.hooks)


def _spent(mechanism: Mechanism, plan: Plan, examples: int, task: Task, hooks: Sequence[Hook]) -> Receipt:
    for part, scope in ((task, task.scope), *((hook, hook.uses) for hook in hooks)):
        if scope not in mechanism.covers:
            raise SettingError(
                f"{mechanism.name} does not cover {type(part).__name__}, whose term looks at more than one example; "
                "leave one of the two out"
            )
    return mechanism.steps(examples, plan.batch_size, steps_of(examples, plan.batch_size, plan.epochs))


def _private(
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    images: Tensor,
    labels: Tensor,
    plan: Plan,
    task: Task,
    hooks: Sequence[Hook],
    mechanism: Mechanism,
) -> Callable[[], Tensor]:
    """A private step; it tells no loss."""
    n, terms = len(labels), [hook for hook in hooks if hook.uses == "weights"]
    objective = _Objective(model, task, [hook for hook in hooks if hook.uses == "example"])
    trained = {name: p for name, p in objective.named_parameters() if p.requires_grad}
    gradient = mechanism.gradient(model, optimiser, trained, mechanism.expected(n, plan.batch_size))

    def step() -> Tensor:
        rows = mechanism.rows(n, plan.batch_size).to(images.device)
        inputs = to_input(images[rows])
        gradient(lambda weights, *one: functional_call(objective, weights, one), (inputs, labels[rows], rows))
        _add_terms(Batch(model, inputs[:0], labels[:0], inputs.new_empty(0, 0), rows[:0]), terms, list(trained.values()))
        for hook in hooks:
            hook.gradient(model)
        optimiser.step()
        return torch.tensor(nan)

    return step


def _add_terms(nothing: Batch, hooks: Sequence[Hook], parameters: Sequence[nn.Parameter]) -> None:
    """Add the gradient of the hooks' terms, which are given a batch of no examples, to that of the parameters."""
    term = torch.zeros((), device=nothing.inputs.device)
    for hook in hooks:
        term = hook.loss(nothing, term)
    if term.requires_grad:
        found = torch.autograd.grad(term, parameters, allow_unused=True, materialize_grads=True)
        for parameter, gradient in zip(parameters, found, strict=True):
            assert parameter.grad is not None
            parameter.grad += gradient
