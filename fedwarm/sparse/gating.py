"""Gates in a model's forward pass: each map behind its normalisation, and each input of a linear layer, times its gate."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from fedwarm.sparse.groups import Groups


class Gated:
    """Gates put into a model until `remove`.

    Args:
        model: stays the same module.
        groups: where its gates are.
        draw: gives all gates (G,) of a forward pass, and is asked before each.
    """

    def __init__(self, model: nn.Module, groups: Groups, draw: Callable[[], Tensor]) -> None:
        self.gates: Tensor | None = None
        self.handles: list[RemovableHandle] = [model.register_forward_pre_hook(lambda *_: self._drawn(draw))]
        for site, place in groups.places.values():
            if site.inputs:
                self.handles.append(model.get_submodule(site.layer).register_forward_pre_hook(self._on_inputs(place)))
            else:
                behind = model.get_submodule(site.norm or site.layer)
                self.handles.append(behind.register_forward_hook(self._on_maps(place, site.units)))

    def _drawn(self, draw: Callable[[], Tensor]) -> None:
        self.gates = draw()

    def _on_inputs(self, place: slice) -> Callable[[nn.Module, tuple[Any, ...]], tuple[Any, ...]]:
        def gate(layer: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
            assert self.gates is not None
            return (given[0] * self.gates[place], *given[1:])

        return gate

    def _on_maps(self, place: slice, units: int) -> Callable[[nn.Module, tuple[Any, ...], Any], Any]:
        def gate(layer: nn.Module, given: tuple[Any, ...], maps: Any) -> Any:
            assert self.gates is not None
            return maps * self.gates[place].repeat_interleave(units)[:, None, None]

        return gate

    def remove(self) -> None:
        """Take them out."""
        for handle in self.handles:
            handle.remove()
