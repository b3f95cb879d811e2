"""Scaled weight standardisation in place of normalised activations."""

from __future__ import annotations

import math

from torch import Tensor, nn

from fedwarm.norms import without

GAMMA = math.sqrt(2 / (1 - 1 / math.pi))  # keeps the variance through a ReLU
FLOOR = 1e-4


def standardised(weight: Tensor) -> Tensor:
    """gamma (V - mean) / sqrt(max(n variance, 1e-4)) over the n inputs of each output channel, V (outputs, inputs, h, w).

    Brock, De, Smith, arXiv 2101.08692, eq. 4, with the floor of arXiv 2102.06171.
    """
    centred = weight - weight.mean((1, 2, 3), keepdim=True)
    return GAMMA * centred / centred.square().sum((1, 2, 3), keepdim=True).clamp(min=FLOOR).sqrt()


class StandardisedConv2d(nn.Conv2d):
    """A convolution with standardised weights; its state, and so what travels, is the plain weight."""

    def forward(self, input: Tensor) -> Tensor:
        convolved: Tensor = self._conv_forward(input, standardised(self.weight), self.bias)
        return convolved


def standardised_weights(model: nn.Module) -> None:
    """No layers of normalisation; the weights of convolutions are standardised in every pass (FedWon, arXiv 2306.05879)."""
    without(model)
    for part in model.modules():
        if type(part) is nn.Conv2d:
            part.__class__ = StandardisedConv2d


COMPONENT = standardised_weights
