"""Hooks before a layer that see or change its input, by whatever name the layer is given it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

Change = Callable[[nn.Module, Tensor], Tensor | None]


@dataclass(frozen=True)
class _Before:
    change: Change

    def __call__(
        self, layer: nn.Module, args: tuple[Any, ...], named: Mapping[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        name = "" if args else next(iter(named))
        changed = self.change(layer, named[name] if name else args[0])
        if changed is None:
            return None
        return (args, {**named, name: changed}) if name else ((changed, *args[1:]), dict(named))


def before(layer: nn.Module, change: Change) -> RemovableHandle:
    """Call `change(layer, input)` before each call of a layer; what it returns is the input then, None: as it was."""
    return layer.register_forward_pre_hook(_Before(change), with_kwargs=True)
