"""No normalisation."""

from __future__ import annotations

from torch import nn

from fedwarm.norms import without


def none(model: nn.Module) -> None:
    """No layers of normalisation; convolutions have a bias instead."""
    without(model)


COMPONENT = none
