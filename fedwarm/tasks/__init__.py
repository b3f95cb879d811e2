"""Tasks: what local training makes of a batch, by the setting `task`: the loss, the width of the model's head, and what is right.

A component is a class of `Task`, made with its settings, if it has some. The one loop knows a task by these calls alone, so that
others need no change of it:

- Without labels (SimCLR): `outputs` makes two views of `inputs` by random changes that it draws from `draws`, and gives the
  model's vectors of both, (2 b, width); `loss` contrasts them, and leaves the labels alone; `width` is the vectors'. As it looks
  at examples together its `scope` is `batch`, by which private steps refuse it. `draws` is None where a model is measured: one
  view. Its vectors answer nothing (`answers`), so that its features are measured. A second loss (a head that tells clients apart)
  is a hook's term.
- Several models (FedMix): the model is one module with experts and gate. If its forward pass gives log p(y | x) = logsumexp_k
  (log pi_k + log p_k), classification's loss is that of the mixture. A task of its own gives outputs (b, experts, classes + 1)
  and weighs the experts' losses by responsibilities of its own; `right` then counts by the mixture.
- What is not made of a batch (terms of weights, teachers) is a `training.loop.Hook`, whatever the task.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fedwarm.settings.config import General
from fedwarm.settings.kinds import TASKS
from fedwarm.settings.registry import own_of


class Task:
    """What a batch is for.

    Attributes:
        settings: its group of settings, or None.
        targets: what it wants of a data set: `classes`, int64 (n,); `labels`, float32 (n, L) of 0 and 1; `numbers`, float32 (n,)
            or (n, k); `tokens`, int64 (n, T), the next ones of each place of a text. Data that can be read in several ways (a
            column of numbers, a text) are read so; a data set without such targets is refused.
        scope: `example`, where the loss is a mean of something of each example alone, else `batch` (see `training.loop.Hook`).
        answers: whether outputs answer the targets, so that metrics can be made of both. Where not, right answers are those of
            the nearest neighbours among a client's own training examples, by the features below the head.
        counted: whether it counts right answers (`right`), which makes an accuracy.
    """

    settings: ClassVar[Any] = None
    scope: ClassVar[str] = "example"
    targets: ClassVar[str] = "classes"
    answers: ClassVar[bool] = True
    counted: ClassVar[bool] = True

    def __init__(self, *settings: Any) -> None:
        self.own_settings = settings

    def width(self, classes: int) -> int:
        """Outputs of the model's head."""
        return classes

    def outputs(self, model: nn.Module, inputs: Tensor, draws: torch.Generator | None) -> Tensor:
        """What the loss and hooks look at, e.g. logits (b, width), of inputs (b, *shape) on the model's device.

        Args:
            draws: for what is random about it, on the CPU, shared with the order of the examples; None: nothing may be, as the
                model is measured or trained privately.
        """
        outputs: Tensor = model(inputs)
        return outputs

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """The scalar to minimise, a mean over the batch; targets (b, ..), int64 (b,) where they are classes."""
        raise NotImplementedError

    def right(self, outputs: Tensor, labels: Tensor) -> int:
        """How many of the labels (b,) the outputs are right about, both on the CPU; of tasks that are `counted` and answer."""
        raise NotImplementedError

    @classmethod
    def uncovered(cls, run: Any, level: Any) -> str:
        """What clients tell of such a task that a private run's account does not cover (see `parts.Part.uncovered`)."""
        if cls.answers:
            return ""
        return (
            f"task = {run['task']!r} is measured by nearest neighbours among clients' training examples, which the account of "
            "this private run does not cover; take another task, or leave privacy out"
        )

    @property
    def neighbours(self) -> int:
        """How many neighbours vote where outputs answer nothing."""
        return 20

    def predicted(self, outputs: Tensor) -> Tensor:
        """The answers as people and other libraries' metrics know them, e.g. probabilities, of outputs."""
        return outputs

    def examples(self, targets: Tensor) -> int:
        """How many answers are asked for by the targets of some examples: what the loss is a mean over."""
        return len(targets)


def task_of(run: General) -> Task:
    """The run's task."""
    return made(run.task, run.own_settings)


def made(name: str = General.task, settings: tuple[Any, ...] = ()) -> Task:
    """A task by its name; `settings`: its own among others."""
    return _made(TASKS.load(name), settings)


@lru_cache(maxsize=16)
def _made(task: Callable[..., Task], settings: tuple[Any, ...]) -> Task:
    return task(*own_of(task, settings))
