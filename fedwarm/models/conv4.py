"""A small encoder of four convolutions, after which stands one linear layer."""

from __future__ import annotations

from torch import nn

WIDTHS = (16, 32, 64, 128)


def conv4(classes: int, image_size: int) -> nn.Module:
    """Four 3x3 convolutions with GroupNorm, the mean over places, and one linear layer on its 128 features; 98,970 parameters."""
    layers: list[nn.Module] = []
    for before, width in zip((3, *WIDTHS), WIDTHS, strict=False):
        layers += [nn.Conv2d(before, width, 3, padding=1, bias=False), nn.GroupNorm(8, width), nn.ReLU()]
        layers += [nn.MaxPool2d(2)] if width != WIDTHS[-1] else []
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(WIDTHS[-1], classes))


COMPONENT = conv4
