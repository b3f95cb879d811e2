"""ResNet-20 for small images, with batch normalisation and shortcuts without parameters."""

from __future__ import annotations

from collections import OrderedDict

import torch.nn.functional as F
from torch import Tensor, nn

from fedwarm.settings.registry import component

BLOCKS, WIDTHS = 3, (16, 32, 64)
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, by which published weights are often trained


class Shortcut(nn.Module):
    """x, with every second pixel and with channels of 0 on both sides where a block halves and widens (option A)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.stride, self.pad = stride, (outputs - inputs) // 2

    def forward(self, x: Tensor) -> Tensor:
        """(b, inputs, S, S) to (b, outputs, S / stride, S / stride)."""
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.pad, self.pad))


class Block(nn.Module):
    """Two 3x3 convolutions with batch normalisation beside a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Identity() if stride == 1 and inputs == outputs else Shortcut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn1(self.conv1(x)).relu()
        summed: Tensor = self.bn2(self.conv2(y)) + self.shortcut(x)
        return summed.relu()


def _stage(inputs: int, outputs: int) -> nn.Sequential:
    first = Block(inputs, outputs, 1 if inputs == outputs else 2)
    return nn.Sequential(first, *(Block(outputs, outputs, 1) for _ in range(BLOCKS - 1)))


@component(mean=MEAN, deviation=DEVIATION)
def resnet20(classes: int, image_size: int) -> nn.Module:
    """The ResNet for small images of He et al. (arXiv 1512.03385, section 4.2, n = 3) with BatchNorm; 269,722 parameters."""
    stages = [(f"layer{i + 1}", _stage(WIDTHS[max(0, i - 1)], width)) for i, width in enumerate(WIDTHS)]
    return nn.Sequential(
        OrderedDict([
            ("conv1", nn.Conv2d(3, WIDTHS[0], 3, padding=1, bias=False)), ("bn1", nn.BatchNorm2d(WIDTHS[0])), ("relu", nn.ReLU()),
            *stages, ("pool", nn.AdaptiveAvgPool2d(1)), ("flat", nn.Flatten()), ("linear", nn.Linear(WIDTHS[-1], classes)),
        ])
    )  # fmt: skip


COMPONENT = resnet20
