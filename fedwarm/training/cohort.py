"""Clients of a round that train together: one program over stacked weights (`torch.func.vmap`) in place of many small ones.

A GPU waits for the launches of a small model's kernels, not for its sums. What each client does is the same as alone: its
batches in its own order, as many steps, its own optimiser's state. Batches are filled up to the plan's size (see `Wish.width`) by
rows of weight 0, and a stack to its size by clients without any, so that what becomes of a client depends on the size of the
stack and not on who else is in it. Sums are taken in another order than one after another, so the last bits differ.

Not all can: see `obstacle`. Who cannot trains alone, as `loop.fit` does.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import ceil
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, vmap

from fedwarm.core import meeting, sums
from fedwarm.core.compute import torch_threads
from fedwarm.core.progress import tick
from fedwarm.models import to_input
from fedwarm.settings.kinds import OPTIMISERS
from fedwarm.tasks import Task, made
from fedwarm.training import loop
from fedwarm.training.dropout import draws
from fedwarm.training.loop import Batch, Fit, Hook
from fedwarm.training.plan import Plan, factors_of, steps_of
from fedwarm.training.private import Mechanism

State = dict[str, Tensor]
NARROW = 256  # rows that a batch is filled up to whatever a client holds
ALONE = (nn.RNNBase, nn.RNNCellBase, nn.modules.batchnorm._NormBase)


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
    """`loop.fit`, with the same arguments; where clients meet (`core.meeting`), for all that wait as one program."""
    met = meeting.size() and private is None and len(labels)
    if not met or obstacle(plan, hooks) or model_obstacle(model):
        return loop.fit(model, images, labels, plan, generator, hooks, stage, private)
    wish = Wish(model, images, labels, plan, generator, tuple(hooks), stage, torch.get_num_threads())
    done: Fit = meeting.meet(wish, granted)
    tick(stage, plan.epochs, plan.epochs)
    return done


def obstacle(plan: Plan, hooks: Sequence[Hook] = ()) -> str:
    """Why trainings of this plan with these hooks cannot be stacked, as part of a sentence; empty where they can."""
    if made(plan.task, plan.own_settings).scope != "example":
        return f"task = {plan.task!r} looks at examples together"
    if not getattr(OPTIMISERS.load(plan.optimiser), "elementwise", False):
        return f"optimiser = {plan.optimiser!r} does not say that it treats each weight by itself"
    own = (type(hook) for hook in hooks if not stackable(hook))
    return next((f"{kind.__name__} takes one model at a time" for kind in own), "")


def stackable(hook: Hook) -> bool:
    """Whether a hook says that its term can be stacked (`Hook.stacked`), and takes no part in single steps."""
    kind = type(hook)
    apart = all(getattr(kind, name) is getattr(Hook, name) for name in ("given", "epoch", "again", "gradient"))
    return hook.stacked is not None and hook.uses == "weights" and apart


def model_obstacle(model: nn.Module) -> str:
    """Why a model cannot be stacked, as part of a sentence; empty as far as nothing is known that speaks against it."""
    if draws(model):
        return "the model has layers that draw"
    found = next((type(part).__name__ for part in model.modules() if isinstance(part, ALONE)), "")
    return f"the model has a {found}" if found else ""


@dataclass(frozen=True, eq=False)
class Wish:
    """A training that waits for others; `threads`: what torch computes with at its client."""

    model: nn.Module
    images: Tensor
    labels: Tensor
    plan: Plan
    generator: torch.Generator
    hooks: tuple[Hook, ...]
    stage: str
    threads: int

    @property
    def steps(self) -> int:
        return steps_of(len(self.labels), self.plan.batch_size, self.plan.epochs)

    @property
    def width(self) -> int:
        """Rows that a batch is filled up to: the plan's, or the next power of 2 where the client holds far fewer examples."""
        return min(self.plan.batch_size, max(NARROW, 1 << (len(self.labels) - 1).bit_length()))

    def key(self) -> tuple[Any, ...]:
        """What must be the same for trainings to be stacked; step sizes that follow the number of steps with it."""
        state = tuple((name, t.shape, t.dtype) for name, t in self.model.state_dict().items())
        factors = [] if self.plan.run is None else factors_of(self.plan.run, self.steps)
        paced = tuple(factors) if any(factor != 1 for factor in factors) else ()
        form = (self.images.dtype, self.images.shape[1:], self.labels.dtype, self.labels.shape[1:])
        return state, form, self.plan, self.width, paced, tuple(map(type, self.hooks)), next(self.model.parameters()).device

    def alone(self) -> Fit:
        """The training, by itself."""
        return loop.fit(self.model, self.images, self.labels, self.plan, self.generator, self.hooks, self.stage)


def granted(wishes: list[Wish], size: int) -> list[Fit]:
    """The outcomes of trainings, in stacks of `size` of those that are alike."""
    alike: dict[tuple[Any, ...], list[int]] = {}
    for i, wish in enumerate(wishes):
        alike.setdefault(wish.key(), []).append(i)
    found: dict[int, Fit] = {}
    with torch_threads(wishes[0].threads):
        for members in alike.values():
            for start in range(0, len(members), size):
                part = members[start : start + size]
                found |= zip(part, trained([wishes[i] for i in part], size), strict=True)
    return [found[i] for i in range(len(wishes))]


def trained(wishes: Sequence[Wish], size: int) -> list[Fit]:
    """Train alike ones as one stack, or alone where torch cannot stack what their model does.

    Raises:
        RuntimeError: the stack does not fit into the device's memory; the message says what to do.
    """
    begun = [wish.generator.get_state() for wish in wishes]
    try:
        return Stack(wishes, size).run()
    except torch.OutOfMemoryError as error:
        raise RuntimeError(f"{size} clients at a time do not fit into the device's memory; set cohort lower") from error
    except _UnstackableError as error:
        _tell(str(error))
    for wish, state in zip(wishes, begun, strict=True):
        wish.generator.set_state(state)
    return [wish.alone() for wish in wishes]


class _UnstackableError(Exception):
    """Torch cannot do a model's operations for several weights at once."""


@lru_cache(maxsize=16)
def _tell(why: str) -> None:
    logging.getLogger("fedwarm").warning("clients train one after another, as torch cannot stack the model: %s", why)


class Stack:
    """Up to `size` alike trainings as one; the first axis of all tensors is the client's."""

    def __init__(self, wishes: Sequence[Wish], size: int) -> None:
        self.wishes, self.size, first = wishes, size, wishes[0]
        self.device, self.plan = next(first.model.parameters()).device, first.plan
        self.task = made(self.plan.task, self.plan.own_settings)
        for wish in wishes:
            for hook in wish.hooks:
                hook.prepare(wish.model)
            wish.model.train()
        models = [wish.model for wish in wishes]
        wanted = {name for name, p in first.model.named_parameters() if p.requires_grad}
        state = self._stacked([{**dict(m.named_parameters()), **dict(m.named_buffers())} for m in models])
        self.trained = {name: t.requires_grad_() for name, t in state.items() if name in wanted}
        self.state = {f"model.{name}": tensor for name, tensor in state.items()}
        self.terms = [self._stacked([_attributes(wish.hooks[i]) for wish in wishes]) for i in range(len(first.hooks))]
        self.loss = _Loss(first.model, self.task, first.hooks)
        self.images = torch.cat([wish.images for wish in wishes]).to(self.device)
        self.labels = torch.cat([wish.labels for wish in wishes]).to(self.device)
        self.rows, self.weights = (t.to(self.device) for t in self._batches())

    def run(self) -> list[Fit]:
        """Take all steps; each client's weights are those after its own last one."""
        ends = [wish.steps for wish in self.wishes]
        optimiser = self.plan.optimiser_of(self.trained.values(), max(ends))  # type: ignore[arg-type]
        losses = []
        for step in range(max(ends)):
            loss = self._losses(step)
            optimiser.zero_grad()
            loss.sum().backward()
            optimiser.step()
            losses.append(loss.detach())
            self._settle([k for k, end in enumerate(ends) if end == step + 1])
        return self._told(torch.stack(losses).cpu(), ends)

    def _losses(self, step: int) -> Tensor:
        rows = self.rows[step]
        batch = (to_input(self.images[rows]), self.labels[rows], self.weights[step], self.terms)
        try:
            found: Tensor = vmap(lambda state, *given: functional_call(self.loss, state, given))(self.state, *batch)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, NotImplementedError, ValueError) as error:
            if step:
                raise
            raise _UnstackableError(str(error).strip().splitlines()[0]) from error
        return found

    @torch.no_grad()
    def _settle(self, ended: Sequence[int]) -> None:
        """Hand their weights to clients that are done: what their places compute from now on is nobody's."""
        for k in ended:
            for name, parameter in self.wishes[k].model.named_parameters():
                if name in self.trained:
                    parameter.copy_(self.trained[name][k])

    def _told(self, losses: Tensor, ends: Sequence[int]) -> list[Fit]:
        found = []
        for k, (wish, end) in enumerate(zip(self.wishes, ends, strict=True)):
            for hook in wish.hooks:
                hook.finish(wish.model)
            last = losses[end - end // self.plan.epochs : end, k].tolist()
            found.append(Fit(sums.mean(last), end, len(wish.labels)))
        return found

    def _stacked(self, parts: Sequence[State]) -> State:
        """Tensors of the clients on a new first axis; empty places have the first client's."""
        full = [*parts, *[parts[0]] * (self.size - len(parts))]
        return {name: torch.stack([part[name].detach() for part in full]) for name in parts[0]}

    def _batches(self) -> tuple[Tensor, Tensor]:
        """Rows (steps, size, batch) among all clients' examples, and what each counts in its batch's mean."""
        batch, width = self.plan.batch_size, self.wishes[0].width
        shape = (max(wish.steps for wish in self.wishes), self.size, width)
        rows, weights, start = torch.zeros(shape, dtype=torch.int64), torch.zeros(shape), 0
        for k, wish in enumerate(self.wishes):
            n, counts = len(wish.labels), _counts(self.task, wish.labels)
            steps = ceil(n / batch)
            rows[:, k] = start
            for epoch in range(self.plan.epochs):
                order, empty = torch.randperm(n, generator=wish.generator), steps * width - n
                at = slice(epoch * steps, (epoch + 1) * steps)
                rows[at, k] += F.pad(order, (0, empty)).view(steps, width)
                weights[at, k] = F.pad(counts[order], (0, empty)).view(steps, width)
            start += n
        return rows, weights


class _Loss(nn.Module):
    """A batch's loss of one client, as a module whose weights can be swapped."""

    def __init__(self, model: nn.Module, task: Task, hooks: Sequence[Hook]) -> None:
        super().__init__()
        self.model, self.task, self.hooks = model, task, hooks

    def forward(self, inputs: Tensor, labels: Tensor, weights: Tensor, terms: Sequence[State]) -> Tensor:
        """The mean over rows by their weights, with the hooks' terms."""
        outputs = self.task.outputs(self.model, inputs, None)
        each = vmap(lambda output, label: self.task.loss(output[None], label[None]))(outputs, labels)
        loss = (each * weights).sum() / weights.sum().clamp(min=1)
        batch = Batch(self.model, inputs[:0], labels[:0], outputs[:0], labels[:0])
        for hook, own in zip(self.hooks, terms, strict=True):
            loss = _with(hook, own).loss(batch, loss)
        return loss


def _attributes(hook: Hook) -> State:
    """What a hook's term looks at that each client has of its own, by attribute and place in a list."""
    found: State = {}
    for name in hook.stacked or ():
        held = getattr(hook, name)
        found |= {f"{name}.{i}": t for i, t in enumerate(held)} if isinstance(held, list) else {name: held}
    return found


def _with(hook: Hook, own: Mapping[str, Tensor]) -> Hook:
    """A hook's twin that has these in place of its own."""
    twin = copy.copy(hook)
    for name in hook.stacked or ():
        parts = [tensor for key, tensor in own.items() if key.startswith(f"{name}.")]
        setattr(twin, name, own.get(name, parts))
    return twin


def _counts(task: Task, labels: Tensor) -> Tensor:
    """How many answers each example (n,) has in its batch's mean."""
    if type(task).examples is Task.examples:
        return torch.ones(len(labels))
    return torch.tensor([float(task.examples(label[None])) for label in labels])
