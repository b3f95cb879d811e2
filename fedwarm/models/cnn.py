"""A small convolutional network."""

from __future__ import annotations

from torch import nn


def cnn(classes: int, image_size: int) -> nn.Module:
    """Two convolutions and one linear layer; 34,538 parameters for 10 classes at 32x32."""
    side = image_size // 4
    return nn.Sequential(
        nn.Conv2d(3, 16, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(32 * side * side, classes),
    )  # fmt: skip


COMPONENT = cnn
