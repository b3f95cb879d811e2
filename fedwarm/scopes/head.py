"""A linear probe."""

from __future__ import annotations

from torch import nn

from fedwarm.scopes import train_only


def head(model: nn.Module, head: tuple[str, ...]) -> None:
    """The last layer alone, on fixed features (a linear probe)."""
    train_only(model, lambda name: name in head)


COMPONENT = head
