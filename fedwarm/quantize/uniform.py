"""Uniform quantizers: the whole multiples of a step between two bounds, and the straight-through gradient.

Q(x) = Delta clip(round(x / Delta), low, high), ties to even. A symmetric grid has low = -high, an affine one with zero point z
low = -z and high = 2^b - 1 - z, so 0 is on every grid. Bengio, Leonard, Courville, "Estimating or Propagating Gradients Through
Stochastic Neurons for Conditional Computation", arXiv 1308.3432; Jacob et al., "Quantization and Training of Neural Networks for
Efficient Integer-Arithmetic-Only Inference", arXiv 1712.05877.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fedwarm.settings.fields import SettingError

FLOAT_BITS, FEWEST_BITS, MOST_BITS = 32, 2, 16
RULES = ("mse", "minmax")


@dataclass(frozen=True)
class Scheme:
    """How a model's weights, and its inputs of layers, are quantized.

    Attributes:
        rule: the range: `mse` takes the least squared error among 100, `minmax` clips nothing.
        per_channel: a step for each output channel of a weight.
        full_range: weights use -2^(b-1) too.
        skip_first_last: the first and the last layer stay float.
    """

    rule: str = "mse"
    per_channel: bool = False
    full_range: bool = False
    skip_first_last: bool = False


PLAIN = Scheme()


def checked_bits(bits: int, name: str = "bits") -> int:
    """The width, if a uniform grid can have it; 32 stands for float.

    Raises:
        SettingError: it is neither 2 to 16 nor 32.
    """
    if bits != FLOAT_BITS and not FEWEST_BITS <= bits <= MOST_BITS:
        raise SettingError(f"{name} = {bits} is not a bit-width; choose {FEWEST_BITS} to {MOST_BITS}, or {FLOAT_BITS} for float")
    return bits


def levels(bits: int, full_range: bool = False) -> tuple[int, int]:
    """(low, high) of a signed grid: -L .. L with L = 2^(b-1) - 1, or -2^(b-1) .. L.

    Raises:
        SettingError: no grid has this width.
    """
    if not FEWEST_BITS <= bits <= MOST_BITS:
        raise SettingError(f"a signed grid cannot have {bits} bits; choose {FEWEST_BITS} to {MOST_BITS}")
    high = (1 << bits - 1) - 1
    return -high - full_range, high


@dataclass(frozen=True, eq=False)
class Grid:
    """The values k step for whole k from low to high; each is () or (C, 1, ..), one for every channel."""

    step: Tensor
    low: Tensor
    high: Tensor

    def codes(self, x: Tensor) -> Tensor:
        """The k of the value nearest to x, as whole floats of x's shape."""
        return (x * (1 / self.step)).round().clamp(self.low, self.high)

    def nearest(self, x: Tensor) -> Tensor:
        """Q(x); the gradient is that of a step function, 0 or undefined. `quantize` is to train through."""
        return self.codes(x) * self.step


def affine_grid(lowest: Tensor, highest: Tensor, bits: int) -> Grid:
    """2^b values that reach from `lowest` to `highest` and hold 0; both () or (C, 1, ..)."""
    lowest, highest, count = lowest.clamp(max=0), highest.clamp(min=0), (1 << bits) - 1
    step = ((highest - lowest) / count).clamp(min=torch.finfo(lowest.dtype).tiny)
    low = (lowest / step).round().clamp(-count, 0)
    return Grid(step, low, low + count)


class _StraightThrough(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, step: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        codes = (x * (1 / step)).round()
        return codes.clamp(low, high) * step, (codes >= low) & (codes <= high)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: tuple[Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(output[1])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (inside,) = ctx.saved_tensors
        return gradients[0] * inside, None, None, None


def quantize(x: Tensor, grid: Grid) -> Tensor:
    """Q(x) with dQ/dx = 1 where round(x / step) is between the bounds, 0 outside; the grid gets no gradient."""
    value: Tensor = _StraightThrough.apply(x, grid.step, grid.low, grid.high)[0]
    return value
