"""Quantizers on a model and off again, by parametrizations of weights and hooks before layers; no model's code is changed.

What trains through them stays the float weight. In evaluation mode every one of them does nothing: a model that is being trained
predicts by its float weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from fedwarm.core.before import before
from fedwarm.quantize.ranges import Running, weight_grid
from fedwarm.quantize.uniform import FLOAT_BITS, Scheme, quantize
from fedwarm.settings.fields import SettingError

QUANTIZED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
INPUT = "quantized_input"


def layers(model: nn.Module, skip_first_last: bool = False) -> dict[str, nn.Module]:
    """The layers whose weights are quantized, by name and in the model's order: convolutions and linear ones.

    Raises:
        SettingError: one of them makes its weight of other parameters, as `torch.nn.utils.weight_norm` does.
    """
    found: list[tuple[str, nn.Module]] = [(name, part) for name, part in model.named_modules() if isinstance(part, QUANTIZED)]
    for name, part in found:
        if part._parameters.get("weight") is None and not parametrize.is_parametrized(part, "weight"):
            raise SettingError(
                f"layer {name!r} has no weight of its own (weight_norm and the like), so that it cannot be quantized; take "
                "that off, e.g. by torch.nn.utils.remove_weight_norm"
            )
    return dict(found[1:-1] if skip_first_last else found)


def input_layers(model: nn.Module, skip_first_last: bool = False) -> dict[str, nn.Module]:
    """The layers whose inputs are quantized: as `layers`, without the first, since pictures come in 8 bits as they are."""
    first = next(iter(layers(model)), None)
    return {name: layer for name, layer in layers(model, skip_first_last).items() if name != first}


def tensor_of(layer: str) -> str:
    """The name of a layer's weight in the model's state."""
    return f"{layer}.weight" if layer else "weight"


def master(layer: nn.Module) -> Tensor:
    """The float weight that is trained, with or without a quantizer on it."""
    held: Any = layer
    weight: Tensor = held.parametrizations.weight.original if parametrize.is_parametrized(layer, "weight") else held.weight
    return weight


def attach(model: nn.Module, weights: Mapping[str, nn.Module], inputs: Mapping[str, nn.Module]) -> Callable[[], None]:
    """Put quantizers on layers by name; what is returned takes them off and leaves names, order and tensors as they were.

    A quantizer's parameters are the model's while it is there, so an optimizer that is made afterwards trains them.

    Raises:
        SettingError: a weight has a parametrization already.
    """
    undo: list[Callable[[], None]] = []
    for name in [name for name in weights if parametrize.is_parametrized(model.get_submodule(name), "weight")]:
        raise SettingError(f"{tensor_of(name)} has a parametrization already; take it off before quantizers are put on")
    for name, quantizer in weights.items():
        layer = model.get_submodule(name)
        undo.append(partial(_bare, layer, list(layer._parameters)))
        parametrize.register_parametrization(layer, "weight", quantizer.train(layer.training), unsafe=True)
    for name, quantizer in inputs.items():
        layer = model.get_submodule(name)
        layer.add_module(INPUT, quantizer.train(layer.training))
        undo += [before(layer, _through).remove, partial(delattr, layer, INPUT)]

    def detach() -> None:
        while undo:
            undo.pop()()

    return detach


@contextmanager
def attached(model: nn.Module, weights: Mapping[str, nn.Module], inputs: Mapping[str, nn.Module]) -> Iterator[nn.Module]:
    """`attach` for a block."""
    detach = attach(model, weights, inputs)
    try:
        yield model
    finally:
        detach()


def _bare(layer: nn.Module, order: list[str]) -> None:
    parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)
    for name in order:
        layer._parameters[name] = layer._parameters.pop(name)


def _through(layer: nn.Module, x: Tensor) -> Tensor:
    quantized: Tensor = getattr(layer, INPUT)(x)
    return quantized


class Width:
    """The width of a step, which all quantizers of a model look up."""

    def __init__(self, bits: int = FLOAT_BITS) -> None:
        self.bits = bits


class Rounded(nn.Module):
    """Weights rounded to the width of the step, straight-through; the range is found anew from the weights."""

    def __init__(self, width: Width, scheme: Scheme) -> None:
        super().__init__()
        self.width, self.scheme = width, scheme

    def forward(self, weight: Tensor) -> Tensor:
        if not self.training or self.width.bits == FLOAT_BITS:
            return weight
        return quantize(weight, weight_grid(weight, self.width.bits, self.scheme))


class Noisy(nn.Module):
    """Weights plus noise in units of the width's quantization step; it stays the same until it is drawn again."""

    def __init__(self, width: Width, scheme: Scheme) -> None:
        super().__init__()
        self.width, self.scheme = width, scheme
        self.noise: Tensor | None = None

    def forward(self, weight: Tensor) -> Tensor:
        if not self.training or self.width.bits == FLOAT_BITS or self.noise is None:
            return weight
        return weight + weight_grid(weight, self.width.bits, self.scheme).step * self.noise.to(weight)


class RoundedInput(nn.Module):
    """Inputs rounded to the width of the step on an affine grid, straight-through; its range is a moving average over batches."""

    def __init__(self, width: Width, scheme: Scheme) -> None:
        super().__init__()
        self.width, self.running = width, Running(scheme.rule)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.width.bits == FLOAT_BITS:
            return x
        return quantize(x, self.running.update(x, self.width.bits))


def device_of(model: nn.Module) -> torch.device:
    """Where a model's parameters are."""
    return next(model.parameters()).device
