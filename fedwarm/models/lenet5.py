"""LeNet-5."""

from __future__ import annotations

from torch import nn

from fedwarm.settings.fields import SettingError


def lenet5(classes: int, image_size: int) -> nn.Module:
    """LeNet-5 (LeCun et al., 1998) with ReLU and max pooling, on colour images."""
    side = image_size // 4 - 3
    if side < 1:
        raise SettingError(f"lenet5 needs images of at least 16 pixels; data.image-size is {image_size}: raise it to 16 or more")
    return nn.Sequential(
        nn.Conv2d(3, 6, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(16 * side * side, 120), nn.ReLU(),
        nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, classes),
    )  # fmt: skip


COMPONENT = lenet5
