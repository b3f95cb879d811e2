"""A residual network for small images."""

from __future__ import annotations

from torch import Tensor, nn


class _Residual(nn.Module):
    """Two 3x3 convolutions with GroupNorm beside a shortcut (He et al., arXiv 1512.03385, section 4.2, option B)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = nn.GroupNorm(8, outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.GroupNorm(8, outputs)
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(self.conv1(x)).relu()
        summed: Tensor = self.norm2(self.conv2(y)) + self.shortcut(x)
        return summed.relu()


def resnet8(classes: int, image_size: int) -> nn.Module:
    """The ResNet for small images of He et al. (arXiv 1512.03385, section 4.2) with n = 1 and GroupNorm; 77,850 parameters."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.GroupNorm(8, 16), nn.ReLU(),
        _Residual(16, 16, 1), _Residual(16, 32, 2), _Residual(32, 64, 2),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, classes),
    )  # fmt: skip


COMPONENT = resnet8
