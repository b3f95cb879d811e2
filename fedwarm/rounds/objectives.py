"""What is asked of an objective before a run: whether it can do what it is for, and what clients learn beside the weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from fedwarm.core.inputs import Form
from fedwarm.data.settings import Data
from fedwarm.data.shards import form_of
from fedwarm.methods import method_of
from fedwarm.models import Model, build_model, to_input
from fedwarm.objectives import hooks_of, learned_state, objective_of
from fedwarm.relevance import Run
from fedwarm.settings.config import Config
from fedwarm.settings.fields import SettingError
from fedwarm.settings.kinds import METHODS, OBJECTIVES, PRIVACY
from fedwarm.training.loop import Hook
from fedwarm.training.private import hidden
from fedwarm.training.sizes import untold


def learned_template(config: Config, model: nn.Module, inputs: Form | int) -> dict[str, Tensor]:
    """Names and shapes of what clients learn beside the weights, by a look at one empty input; the model stays as it is.

    Raises:
        SettingError: the method does not average it, or the objective's settings do not go together.
    """
    _check_shared(config)
    hooks = _hooks(config)
    if not objective_of(config).learns(config):
        return {}
    for hook in hooks:
        hook.prepare(model)
    model.train()
    with torch.no_grad():
        model(to_input(Form.at(inputs).empty(1, next(model.parameters()).device)))
    for hook in hooks:
        hook.finish(model)
    return {name: torch.zeros_like(tensor) for name, tensor in learned_state(hooks).items()}


# What is refused before a run


def check_objective(config: Config) -> None:
    """Refuse an objective that would not do what it is for in this run.

    Raises:
        SettingError: there is no such objective, its settings do not go together, it begins too late, it learns arrays that the
            method does not average, or private training steps do not cover it.
    """
    objective, name = objective_of(config), config.run.objective
    _check_shared(config)
    run = Run.of(config)
    rounds = config.run.num_server_rounds if run.rounds else 1
    if run.trains and objective.begins(config) > rounds:
        lower = f"lower {' or '.join(objective.delays)}, or " if objective.delays else ""
        raise SettingError(f"objective {name!r} begins after the last of {rounds} rounds; {lower}raise num-server-rounds")
    if not _covered(config, _hooks(config)):
        covered = [other for other in OBJECTIVES if _could(config, other)]
        raise SettingError(
            f"objective {name!r} looks at more than one example at a time, which privacy = {config.run.privacy!r} does not "
            f"cover; with the other settings as they are, it covers {', '.join(covered)}"
        )


def check_private_model(config: Config, classes: int) -> None:
    """Refuse a classifier that private training steps do not cover.

    Raises:
        SettingError: the run trains one, and its mechanism refuses it.
    """
    refuse = getattr(PRIVACY.load(config.run.privacy), "refuse_model", None)
    if refuse is not None and Run.of(config).trains and not untold(config):
        refuse(build_model(replace(config.of(Model), weights=""), classes, form_of(config.of(Data)), config.run.seed))


def _check_shared(config: Config) -> None:
    private = hidden(config)
    if not objective_of(config).learns(config) or (method_of(config).averages and not private):
        return
    methods = ", ".join(name for name in METHODS.own() if (own := METHODS.load(name)).averages and not own.reference)
    codec = f", and another codec than {config.run.codec}" if private else ""
    raise SettingError(
        f"objective {config.run.objective!r} learns quantizers that clients must share; method {config.run.method!r} with "
        f"codec {config.run.codec!r} does not average them: take one of {methods}{codec}"
    )


def _hooks(config: Config) -> list[Hook]:
    """The hooks of the last round."""
    return hooks_of(config, config.run.num_server_rounds, torch.Generator().manual_seed(0))


def _covered(config: Config, hooks: Sequence[Hook]) -> bool:
    """Whether the run's private training steps, where there are such, cover all of the hooks."""
    covers = getattr(PRIVACY.load(config.run.privacy), "covers", None)
    return covers is None or all(hook.uses in covers for hook in hooks)


def _could(config: Config, name: str) -> bool:
    """Whether another objective could be taken instead."""
    try:
        return _covered(config, _hooks(config.changed({"objective": name})))
    except SettingError:
        return False
