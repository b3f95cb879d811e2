"""Local objectives by the setting `objective`: hooks on the one training loop, for any method that trains a classifier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fedwarm.quantize import hooks as robust
from fedwarm.quantize.hooks import QuantizationRobust, validated
from fedwarm.quantize.learned import PREFIX
from fedwarm.settings.config import Config
from fedwarm.settings.fields import SettingError, near
from fedwarm.training.loop import Hook

OBJECTIVES = ("plain", *robust.OBJECTIVES, "rq")


def objective_hooks(
    name: str, config: Config, number: int, draws: torch.Generator, start: Mapping[str, Tensor] | None = None
) -> list[Hook]:
    """The hooks of an objective in a round; they stand before a method's own, since they change which parameters there are.

    Args:
        name: one of `OBJECTIVES`.
        config: the run's settings.
        number: the round, from 1.
        draws: for widths and noise alone; keyed by run, round and client.
        start: what `learned_state` gave, averaged over clients; empty in the first round.

    Raises:
        SettingError: no such objective, or settings that do not go together.
    """
    if name not in OBJECTIVES:
        raise SettingError(f"objective = {name!r} is unknown{near(name, [*OBJECTIVES])}; choose one of {', '.join(OBJECTIVES)}")
    settings = validated(config.of(QuantizationRobust), name)
    hooks = _hooks(name, config, number, draws, start or {}) if number >= settings.start_round else []
    return [*hooks, robust.ClipGradient(settings.clip)] if settings.clip else hooks


def _hooks(name: str, config: Config, number: int, draws: torch.Generator, start: Mapping[str, Tensor]) -> list[Hook]:
    settings = config.of(QuantizationRobust)
    if name == "kure":
        return [robust.Kure(settings)] if number > settings.kure_warmup else []
    if name == "apqn":
        return [robust.Apqn(settings, draws)]
    if name == "qat":
        return [robust.Qat(settings, draws, start)]
    if name == "mqat":
        return [robust.Mqat(settings, draws)]
    if name == "rq":
        from fedwarm.objectives.rq import RelaxedObjective, RelaxedQuantization

        return [RelaxedObjective(config.of(RelaxedQuantization), draws, start)]
    return []


def learned_state(hooks: Sequence[Hook]) -> dict[str, Tensor]:
    """What the objective learned beside the weights, after training: named logs whose mean over clients makes sense."""
    found: dict[str, Tensor] = {}
    for hook in hooks:
        found |= getattr(hook, "state", {})
    return found


def is_learned(name: str) -> bool:
    """Whether an array of this name is what `learned_state` gave, and no part of the model."""
    return name.startswith(PREFIX)
