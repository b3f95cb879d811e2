"""A model with a setting of its own."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from fedwarm.settings.fields import Group, setting
from fedwarm.settings.registry import component


@dataclass(frozen=True)
class Narrow(Group, prefix="narrow"):
    """Settings of the model."""

    width: int = setting(8, "units of the hidden layer", low=1)


@component(settings=Narrow)
def narrow(classes: int, image_size: int, settings: Narrow) -> nn.Module:
    """A perceptron with one small hidden layer."""
    inputs = 3 * image_size * image_size
    return nn.Sequential(nn.Flatten(), nn.Linear(inputs, settings.width), nn.ReLU(), nn.Linear(settings.width, classes))
