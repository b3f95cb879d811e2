"""The model of a run before there is a run: its layers, without numbers, and how many numbers they have."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import nn

from fedwarm.data.classes import listed
from fedwarm.data.settings import Data
from fedwarm.data.shards import form_of, open_table
from fedwarm.models import Model, build_model, takes_pictures
from fedwarm.settings.config import Config
from fedwarm.tasks import task_of


def untold(config: Config) -> bool:
    """Whether only the nodes can tell what the model takes: their own data, and a model of other inputs than pictures."""
    return config.of(Data).own and not takes_pictures(config.of(Model))


def layers_of(config: Config, known: Any) -> nn.Module | None:
    """The model, for who looks at its layers; `known` is `parts.Known`. None where it is `untold`."""
    if untold(config):
        return None
    width = task_of(config.run).width(max(2, len(known.classes)))
    return build_model(replace(config.of(Model), weights=""), width, form_of(config.of(Data)), config.run.seed)


def sizes_of(config: Config) -> tuple[int, ...]:
    """Numbers of each array that is trained, by their names in order; none where only the nodes know the classes or inputs."""
    data = config.of(Data)
    classes = len(listed(data.classes) if data.own else open_table(data).label.names)
    if not classes or untold(config):
        return ()
    width = task_of(config.run).width(classes)
    model = build_model(config.of(Model), width, form_of(data), config.run.seed, say=lambda text: None)
    return tuple(parameter.numel() for _, parameter in sorted(model.named_parameters()) if parameter.requires_grad)
