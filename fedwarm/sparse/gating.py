"""Gates in a model's forward pass: each map behind its normalisation, and each input of a linear layer, times its gate.

A map times z is the map of a filter and bias times z, and so it is with scale and shift of a normalisation: gates multiply the
weights of a pass, which are fewer than its activations. Gates of single weights multiply these.
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from fedwarm.sparse.groups import Groups
from fedwarm.sparse.sites import Site


class Gated:
    """Gates put into a model until `remove`.

    Args:
        model: stays the same module.
        groups: where its gates are.
        draw: gives all gates (G,) of a forward pass, and is asked before each.
    """

    def __init__(self, model: nn.Module, groups: Groups, draw: Callable[[], Tensor]) -> None:
        self.gates: Tensor | None = None
        self.handle = model.register_forward_pre_hook(lambda *_: self._drawn(draw))
        self.layers: list[nn.Module] = []
        for site, place in groups.places.values():
            layer = model.get_submodule(site.norm or site.layer)
            self.layers.append(layer)
            layer.forward = self._forward(layer, site, place)

    def _drawn(self, draw: Callable[[], Tensor]) -> None:
        self.gates = draw()

    def _forward(self, layer: nn.Module, site: Site, place: slice) -> Callable[[Tensor], Tensor]:
        def values() -> Tensor:
            assert self.gates is not None
            if site.single:
                return self.gates[place].view(layer.get_parameter("weight").shape)
            return self.gates[place] if site.units == 1 else self.gates[place].repeat_interleave(site.units)

        def linear(input: Tensor) -> Tensor:
            return F.linear(input, layer.get_parameter("weight") * values(), layer.bias)  # type: ignore[arg-type]

        def conv(input: Tensor) -> Tensor:
            assert isinstance(layer, nn.Conv2d)
            z = values()
            bias = layer.bias if site.single or layer.bias is None else layer.bias * z
            made: Tensor = layer._conv_forward(input, layer.weight * (z if site.single else z[:, None, None, None]), bias)
            return made

        def norm(input: Tensor) -> Tensor:
            assert isinstance(layer, nn.GroupNorm)
            z = values()
            return F.group_norm(input, layer.num_groups, layer.weight * z, layer.bias * z, layer.eps)

        return linear if isinstance(layer, nn.Linear) else norm if site.norm else conv

    def remove(self) -> None:
        """Take them out."""
        self.handle.remove()
        for layer in self.layers:
            del layer.forward
