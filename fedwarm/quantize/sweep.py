"""One model at many widths after training: weights alone, and weights and activations, without any tuning."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from fedwarm.core.before import before
from fedwarm.quantize.learned import Learned
from fedwarm.quantize.ranges import grid_of, spread, weight_grid
from fedwarm.quantize.surgery import input_layers, layers
from fedwarm.quantize.uniform import FLOAT_BITS, PLAIN, Grid, Scheme, checked_bits
from fedwarm.tasks import Task
from fedwarm.training.evaluate import correct, predict

SAMPLED = 1 << 16
Samples = Mapping[str, Tensor]


def weight_grids(model: nn.Module, bits: int, scheme: Scheme, learned: Learned | None = None) -> dict[str, Grid]:
    """The grid of every quantized layer's weight by the layer's name; none at 32 bits.

    Args:
        learned: its steps are taken at the width they belong to.
    """
    if checked_bits(bits) == FLOAT_BITS:
        return {}
    own = learned if learned is not None and learned.bits == bits else None
    found = {}
    for name, layer in layers(model, scheme.skip_first_last).items():
        weight = layer.get_parameter("weight")
        step = own.weight(name, scheme) if own is not None else None
        found[name] = step or weight_grid(weight, bits, scheme)
    return found


@torch.no_grad()
def quantized(
    model: nn.Module, bits: int, scheme: Scheme = PLAIN, samples: Samples | None = None, learned: Learned | None = None
) -> nn.Module:
    """A copy of the model with quantized weights, and with quantized inputs of layers where `samples` are given.

    Args:
        model: is not changed.
        bits: the width of both; 32 is a plain copy.
        scheme: how.
        samples: what `calibrate` gave.
        learned: steps to take at the width they belong to.
    """
    grids = weight_grids(model, bits, scheme, learned)
    device = next(model.parameters()).device
    twin = copy.deepcopy(model)
    for name, grid in grids.items():
        weight = twin.get_submodule(name).get_parameter("weight")
        weight.copy_(_on(grid, weight.device).nearest(weight))
    for name, sample in (samples or {}).items() if grids else ():
        grid = _input_grid(sample, name, bits, scheme, learned)
        before(twin.get_submodule(name), _Nearest(_on(grid, device)))
    return twin


class _Nearest:
    """Rounds a layer's input."""

    def __init__(self, grid: Grid) -> None:
        self.grid = grid

    def __call__(self, layer: nn.Module, x: Tensor) -> Tensor:
        return self.grid.nearest(x)


def _on(grid: Grid, device: torch.device) -> Grid:
    return Grid(grid.step.to(device), grid.low.to(device), grid.high.to(device))


def _input_grid(sample: Tensor, layer: str, bits: int, scheme: Scheme, learned: Learned | None) -> Grid:
    if learned is not None and learned.bits == bits:
        found = learned.input(layer, signed=bool(sample.amin() < 0))
        if found is not None:
            return found
    return grid_of(sample, bits, rule=scheme.rule, affine=True)


def calibrate(model: nn.Module, images: Tensor, scheme: Scheme = PLAIN) -> dict[str, Tensor]:
    """A sample (n,) of what each layer with quantized inputs gets in the float model, the least and the largest among them.

    Args:
        model: is not changed.
        images: uint8 (n, 3, S, S), e.g. 512 of them.
    """
    found: dict[str, list[Tensor]] = {}

    def keep(name: str) -> torch.utils.hooks.RemovableHandle:
        def hook(layer: nn.Module, x: Tensor) -> None:
            found.setdefault(name, []).append(spread(x, SAMPLED).cpu())

        return before(model.get_submodule(name), hook)

    handles = [keep(name) for name in input_layers(model, scheme.skip_first_last)]
    try:
        predict(model, images)
    finally:
        for handle in handles:
            handle.remove()
    return {name: spread(torch.cat(parts), SAMPLED) for name, parts in found.items()}


def bit_width_sweep(
    model: nn.Module,
    widths: Iterable[int],
    images: Tensor,
    labels: Tensor,
    calibration: Tensor | None = None,
    activations: bool = True,
    scheme: Scheme = PLAIN,
    learned: Learned | None = None,
) -> dict[str, float]:
    """Accuracy by width: `w4` for weights alone, `w4a4` for weights and activations; one model, quantized anew for each.

    Args:
        model: the trained float model, which is not changed; its modules' statistics are not estimated again.
        widths: 2 to 16, or 32, which gives the float model's accuracy.
        images, labels: uint8 (n, 3, S, S) and (n,) to measure on.
        calibration: uint8 (m, 3, S, S) for the activations' ranges.
        activations: measure `w4a4`, too; needs `calibration`.
        scheme: how tensors are quantized.
        learned: steps to take at the width they belong to.

    Raises:
        SettingError: a width is none.
        ValueError: activations without calibration.
    """
    if activations and calibration is None:
        raise ValueError("quantized activations need calibration images")
    counts = right_answers(model, widths, images, labels, calibration if activations else None, scheme, learned)
    return {name: count / len(labels) for name, count in counts.items()}


def right_answers(
    model: nn.Module,
    widths: Iterable[int],
    images: Tensor,
    labels: Tensor,
    calibration: Tensor | None = None,
    scheme: Scheme = PLAIN,
    learned: Learned | None = None,
    task: Task | None = None,
) -> dict[str, int]:
    """How many images each width is right about, by the names of `bit_width_sweep`; these add up over clients."""
    widths = [checked_bits(bits) for bits in widths]
    found = {f"w{b}": correct(quantized(model, b, scheme, learned=learned), images, labels, task) for b in widths}
    if calibration is not None:
        samples = calibrate(model, calibration, scheme)
        found |= {f"w{b}a{b}": correct(quantized(model, b, scheme, samples, learned), images, labels, task) for b in widths}
    return found
