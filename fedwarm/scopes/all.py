"""The whole network."""

from __future__ import annotations

from torch import nn

from fedwarm.settings.registry import component


@component(whole=True)
def all(model: nn.Module, head: tuple[str, ...]) -> None:
    """Every layer."""


COMPONENT = all
