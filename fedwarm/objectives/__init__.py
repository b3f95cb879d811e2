"""Local objectives by the setting `objective`: hooks on the one training loop, for any method that trains a classifier.

Each file is one objective and binds `COMPONENT`, an `Objective`. One that adds a term to the loss is a hook and a line:

    class Smoothed(Hook):
        uses = "example"  # see `training.loop.Hook`; private training covers `weights` and `example`

        def loss(self, batch: Batch, loss: Tensor) -> Tensor:
            return 0.9 * loss - 0.1 * batch.logits.log_softmax(1).mean()

    COMPONENT = Objective("labels are smoothed", hooks=(Smoothed,))

With `settings=` a group of its own, each hook is made from that. What else an objective has to say is a method to override.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fedwarm.models import Model
from fedwarm.quantize.hooks import ClipGradient
from fedwarm.quantize.learned import PREFIX, Learned
from fedwarm.quantize.settings import SCHEME, QuantizationRobust
from fedwarm.quantize.uniform import Scheme
from fedwarm.scopes import adds
from fedwarm.settings.config import Config
from fedwarm.settings.fields import Group, SettingError, Value
from fedwarm.settings.kinds import OBJECTIVES, SCOPES
from fedwarm.training.loop import Hook

Get = Callable[[str], Value]


@dataclass(frozen=True)
class Round:
    """Whose hooks are made.

    Attributes:
        number: the round, from 1.
        draws: for the objective's random draws alone; keyed by run, round and client.
        start: what the objective learned so far, averaged over clients; empty in the first round.
    """

    number: int
    draws: torch.Generator
    start: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Objective:
    """Base class of local objectives: the task's loss with the terms and transforms of its hooks.

    Attributes:
        summary: one line for lists.
        settings: its group of settings, several, or None.
        hooks: what makes its hooks, each from its groups of settings.
        uses: keys of settings of other groups that it takes, or a function of `relevance.Run` that gives them.
        delays: settings that put off its first round.
        scheme_uses: settings that its `scheme` takes.
        classed, answered: whether targets must be classes, and outputs answers, see `methods.Method`.
        layers: the layers that it works on, in words; empty: any.
    """

    summary: str
    settings: type[Group] | tuple[type[Group], ...] | None = None
    hooks: tuple[Callable[..., Hook], ...] = ()
    uses: tuple[str, ...] | Callable[[Any], Sequence[str]] = ()
    delays: tuple[str, ...] = ()
    scheme_uses: tuple[str, ...] = SCHEME
    classed: bool = False
    answered: bool = False
    layers: str = ""

    def local_hooks(self, config: Config, now: Round) -> list[Hook]:
        """The hooks of a client's local training; they stand before a method's, since they may change which parameters there are.

        Raises:
            SettingError: its settings do not go together.
        """
        groups = () if self.settings is None else self.settings if isinstance(self.settings, tuple) else (self.settings,)
        return [make(*map(config.of, groups)) for make in self.hooks]

    def begins(self, config: Config) -> int:
        """First round of the objective, from 1; before it clients train without, and send nothing that it learns."""
        return 1

    def learns(self, config: Config) -> bool:
        """Whether clients learn arrays beside the weights, which travel with them and must be averaged (see `learned_state`)."""
        return False

    def scheme(self, config: Config) -> Scheme:
        """Quantization scheme of the final model."""
        return config.of(QuantizationRobust).scheme

    def learned(self, config: Config, arrays: Mapping[str, Tensor]) -> Learned | None:
        """The learned steps among a model's arrays, to quantize it by; None where there are none."""
        steps = {name: array for name, array in arrays.items() if is_learned(name)}
        return Learned(config.of(QuantizationRobust).bits, steps) if steps else None

    def seen(self, get: Get, activations: bool) -> frozenset[int]:
        """The bit-widths that training rounded weights to (`activations`: weights and inputs of layers), by a run's settings."""
        return frozenset()


class Layered(Objective):
    """An objective of the weights that are quantized, those of convolutions and linear layers."""

    def check(self, config: Config, known: Any) -> None:
        """Refuse a model that leaves it nothing to do.

        Raises:
            SettingError: no layer is quantized, or what is trained stands beside the layers' weights.
        """
        from fedwarm.quantize.fitting import check_layers

        if adds(SCOPES.load(scope := config.of(Model).train)):
            raise SettingError(
                f"objective {config.run.objective!r} trains layers' weights, and model.train = {scope!r} others beside them; "
                "take model.train = 'all' or another objective"
            )
        check_layers(config, known, self.scheme(config), f"objective {config.run.objective!r}")


def objective_of(config: Config) -> Objective:
    """The run's objective.

    Raises:
        SettingError: there is none of this name, or what is named is no objective.
    """
    name = config.run.objective
    found = OBJECTIVES.load(name)
    if not isinstance(found, Objective):
        kind = type(found).__name__
        raise SettingError(f"objective = {name!r} names a {kind}; bind a fedwarm.objectives.Objective there, with it as a hook")
    return found


def hooks_of(config: Config, number: int, draws: torch.Generator, start: Mapping[str, Tensor] | None = None) -> list[Hook]:
    """The hooks of the run's objective in a round, and the bound of a step's gradient.

    Args:
        config: the run's settings.
        number: the round, from 1.
        draws: see `Round`.
        start: what `learned_state` gave, averaged over clients; empty in the first round.

    Raises:
        SettingError: no such objective, or its settings do not go together.
    """
    objective, clip = objective_of(config), config.of(QuantizationRobust).clip
    begun = number >= objective.begins(config)
    hooks = objective.local_hooks(config, Round(number, draws, start or {})) if begun else []
    return [*hooks, ClipGradient(clip)] if clip else hooks


def learned_state(hooks: Sequence[Hook]) -> dict[str, Tensor]:
    """Arrays `quantizer/..` that the objective learned beside the weights, whose mean over clients is meaningful."""
    found: dict[str, Tensor] = {}
    for hook in hooks:
        found |= getattr(hook, "state", {})
    return found


def is_learned(name: str) -> bool:
    """Whether an array of this name is what `learned_state` gave, and no part of the model."""
    return name.startswith(PREFIX)
