"""The architecture's own."""

from __future__ import annotations

from torch import nn


def own(layer: nn.Module) -> None:
    """As the architecture has it."""


COMPONENT = own
