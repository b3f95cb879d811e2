"""A small convolutional network."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from fedwarm.settings.fields import Group, setting
from fedwarm.settings.registry import component


@dataclass(frozen=True)
class Cnn(Group, prefix="cnn"):
    """Settings of the model `cnn`."""

    channels: int = setting(16, "feature maps of the first convolution; the second has twice as many", low=1, high=1024)


@component(settings=Cnn)
def cnn(classes: int, image_size: int, settings: Cnn | None = None) -> nn.Module:
    """Two convolutions and one linear layer; 34,538 parameters for 10 classes at 32x32."""
    side, first = image_size // 4, (settings or Cnn()).channels
    return nn.Sequential(
        nn.Conv2d(3, first, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(first, 2 * first, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(2 * first * side * side, classes),
    )  # fmt: skip


COMPONENT = cnn
