"""An adapter merged into the weights that it belongs to: x (W + (alpha / r) B A)^T is one product, x W^T + .. A^T B^T are three.

Hu et al., arXiv 2106.09685, section 4.1, merge for inference. In a small net the calls of many small products cost more than
what they compute, so here a small net is tuned merged, too: layers of one shape are stacked, and one product adds all of theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fedwarm.diffusion.families import Net
from fedwarm.diffusion.foundation import Foundation
from fedwarm.diffusion.lora import FIRST, adapter_state, attached, first_matrices, load_adapter, targeted
from fedwarm.diffusion.settings import Diffusion

MOST_NUMBERS = 2**22
"""Numbers of the merged weights: their gradients, too, are held for a step."""
FIRST_MATRIX, SECOND_MATRIX = ".lora_A.weight", ".lora_B.weight"
Learner = tuple[Net, list[nn.Parameter], Callable[[], dict[str, Tensor]]]


def merges(net: nn.Module, settings: Diffusion) -> bool:
    """Whether an adapter is merged: the net is small, and computes in float32, in which merging rounds no more than products."""
    layers = targeted(net, settings.targets).values()
    exact = all(layer.weight.dtype == torch.float32 for layer in layers)
    return exact and sum(layer.weight.numel() for layer in layers) <= MOST_NUMBERS


@contextmanager
def drawing(net: Any, settings: Diffusion, adapter: Mapping[str, Tensor]) -> Iterator[None]:
    """The net with a client's adapter, merged where it `merges`, and as it was afterwards.

    Raises:
        ValueError: the adapter does not fit the net.
    """
    if not merges(net, settings):
        with attached(net, settings, 0, FIRST):
            load_adapter(net, adapter)
            yield
        return
    layers = targeted(net, settings.targets)
    check_fits(layers, settings.rank, adapter)
    before = {name: layer.weight.data for name, layer in layers.items()}
    try:
        for name, layer in layers.items():
            first, second = (adapter[name + matrix].to(layer.weight) for matrix in (FIRST_MATRIX, SECOND_MATRIX))
            layer.weight.data = torch.addmm(layer.weight.data, second, first, alpha=settings.alpha / settings.rank)
        yield
    finally:
        for name, layer in layers.items():
            layer.weight.data = before[name]


def check_fits(layers: Mapping[str, nn.Linear], rank: int, adapter: Mapping[str, Tensor]) -> None:
    """Refuse an adapter that is not these layers'.

    Raises:
        ValueError: names or shapes differ.
    """
    shapes: dict[str, tuple[int, ...]] = {name + FIRST_MATRIX: (rank, layer.in_features) for name, layer in layers.items()}
    shapes |= {name + SECOND_MATRIX: (layer.out_features, rank) for name, layer in layers.items()}
    wrong = [n for n in shapes.keys() | adapter.keys() if n not in adapter or shapes.get(n) != tuple(adapter[n].shape)]
    if wrong:
        raise ValueError(f"the adapter does not fit this foundation: {sorted(wrong)[:3]}")


@contextmanager
def learning(foundation: Foundation, settings: Diffusion, seed: int, client: int, apart: bool) -> Iterator[Learner]:
    """What learns a client's adapter, from its first matrices on.

    Args:
        apart: whether the matrices must be the net's own parameters, and its modules be called, whatever its size.

    Yields:
        the net with the adapter, the parameters that are trained, and what gives the adapter's matrices (see `adapter_state`).
    """
    net = foundation.net
    if apart or not merges(net, settings):
        with attached(net, settings, seed, FIRST, client) as parameters:
            yield net, parameters, lambda: adapter_state(net)
        return
    stacks = Stacks(net, settings, first_matrices(foundation, settings, seed, client))
    yield stacks, stacks.parameters, stacks.state


class Stacks:
    """A frozen net with an adapter whose matrices are stacked by the shape of their layers, and merged at each call.

    Args:
        net: computes in float32.
        settings: rank, alpha and targets.
        matrices: the adapter's, by peft's names.
    """

    def __init__(self, net: nn.Module, settings: Diffusion, matrices: Mapping[str, Tensor]) -> None:
        self.net, self.scale = net, settings.alpha / settings.rank
        layers = targeted(net, settings.targets)
        check_fits(layers, settings.rank, matrices)
        self.names: dict[tuple[int, int], list[str]] = {}
        for name, layer in layers.items():
            self.names.setdefault((layer.out_features, layer.in_features), []).append(name)
        self.frozen = [torch.stack([layers[name].weight.detach() for name in alike]) for alike in self.names.values()]
        self.first, self.second = (
            [
                nn.Parameter(torch.stack([matrices[name + matrix] for name in alike]).to(frozen.device))
                for alike, frozen in zip(self.names.values(), self.frozen, strict=True)
            ]
            for matrix in (FIRST_MATRIX, SECOND_MATRIX)
        )

    @property
    def parameters(self) -> list[nn.Parameter]:
        """All that is trained."""
        return [*self.first, *self.second]

    def weights(self) -> dict[str, Tensor]:
        """W + (alpha / r) B A of each layer, by the name of its parameter."""
        found: dict[str, Tensor] = {}
        for alike, frozen, first, second in zip(self.names.values(), self.frozen, self.first, self.second, strict=True):
            merged = torch.baddbmm(frozen, second, first, alpha=self.scale)
            found |= {f"{name}.weight": weight for name, weight in zip(alike, merged.unbind(), strict=True)}
        return found

    def __call__(self, *given: Any, **named: Any) -> Any:
        return functional_call(self.net, self.weights(), given, named)

    def state(self) -> dict[str, Tensor]:
        """The adapter's matrices, as `adapter_state` gives them."""
        found: dict[str, Tensor] = {}
        for alike, first, second in zip(self.names.values(), self.first, self.second, strict=True):
            for number, name in enumerate(alike):
                found[name + FIRST_MATRIX], found[name + SECOND_MATRIX] = first[number], second[number]
        return {name: found[name].detach().cpu().clone() for name in sorted(found)}
