"""Scaled weight standardisation in place of normalised activations."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedwarm.norms import blocks, without
from fedwarm.settings.fields import Group, setting
from fedwarm.settings.registry import component

GAMMA = math.sqrt(2 / (1 - 1 / math.pi))  # keeps the variance through a ReLU
FLOOR = 1e-4
FEW_BLOCKS, SMALL = 3, 0.2


@dataclass(frozen=True)
class StandardisedWeights(Group, prefix="ws"):
    """Settings of standardised weights."""

    gain: bool = setting(False, "true: each output channel of a convolution has a learnable factor, initially 1")
    residual: float = setting(
        0.0,
        "factor of the branch of a residual block; 0: 1 in networks of up to 3 such blocks, 0.2 in deeper ones",
        low=0.0,
    )


def standardised(weight: Tensor) -> Tensor:
    """gamma (V - mean) / sqrt(max(n variance, 1e-4)) over the n inputs of each output channel, V (outputs, inputs, h, w).

    Brock, De, Smith, arXiv 2101.08692, eq. 4, with the floor of arXiv 2102.06171.
    """
    centred = weight - weight.mean((1, 2, 3), keepdim=True)
    return GAMMA * centred / centred.square().sum((1, 2, 3), keepdim=True).clamp(min=FLOOR).sqrt()


class StandardisedConv2d(nn.Conv2d):
    """A convolution with standardised weights; its state, and so what travels, is the plain weight, and a gain."""

    gain: nn.Parameter | None

    def forward(self, input: Tensor) -> Tensor:
        used = standardised(self.weight)
        convolved: Tensor = self._conv_forward(input, used if self.gain is None else self.gain * used, self.bias)
        return convolved


@component(settings=StandardisedWeights)
def standardised_weights(model: nn.Module, settings: StandardisedWeights) -> None:
    """No layers of normalisation; the weights of convolutions are standardised in every pass (FedWon, arXiv 2306.05879)."""
    with_gain, branch = settings.gain, settings.residual or (1.0 if len(blocks(model)) <= FEW_BLOCKS else SMALL)
    without(model, branch)
    for part in model.modules():
        if type(part) is nn.Conv2d:
            part.__class__ = StandardisedConv2d
            gain = nn.Parameter(torch.ones_like(part.weight[:, :1, :1, :1])) if with_gain else None
            part.register_parameter("gain", gain)


COMPONENT = standardised_weights
