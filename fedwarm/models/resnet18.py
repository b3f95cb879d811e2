"""ResNet-18 with group normalisation."""

from __future__ import annotations

from torch import nn


def resnet18(classes: int, image_size: int) -> nn.Module:
    """torchvision's ResNet-18 with GroupNorm, so that averages of weights are averages of the whole model."""
    from torchvision.models import resnet18 as build

    model: nn.Module = build(num_classes=classes, norm_layer=lambda c: nn.GroupNorm(min(32, c // 4), c))
    if image_size <= 64:
        model.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        model.maxpool = nn.Identity()
    return model


COMPONENT = resnet18
