"""Learned step sizes: Esser, McKinstry, Bablani, Appuswamy, Modha, "Learned Step Size Quantization", ICLR 2020, arXiv 1902.08153.

q = s clip(round(x / s), -Qn, Qp) with dq/dx = 1 where -Qn < x / s < Qp, else 0 (eq. 5), and dq/ds = round(x / s) - x / s there,
else -Qn or Qp (eq. 3), scaled by g = 1 / sqrt(N Qp) for N numbers that share a step (section 2.2). What is learned is log s;
clients average it, and s stays positive. Its gradient is g dq/ds / s, so that a step of SGD moves s as far as LSQ's own would.
That is near |dL/dx| / |x| (section 2.2), well below 1; in training it is cut to 1 where s became so small that it is not, as exp
of what it would move log s by has no bound.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt
from typing import Any

import torch
from torch import Tensor, nn

from fedwarm.quantize.ranges import weight_grid
from fedwarm.quantize.uniform import Grid, Scheme, levels

PREFIX, STEP = "quantizer/", ".log_step"
STEEPEST = 1.0


class _LearnedStep(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, log_step: Tensor, low: int, high: int, numbers: float) -> Tensor:
        step = log_step.exp()
        return (x * (1 / step)).round().clamp(low, high) * step

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        x, log_step, ctx.low, ctx.high, numbers = inputs
        ctx.save_for_backward(x, log_step)
        ctx.scale = 1 / sqrt(numbers * ctx.high)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, log_step = ctx.saved_tensors
        step = log_step.exp()
        scaled = x * (1 / step)
        inside = (scaled > ctx.low) & (scaled < ctx.high)
        by_step = torch.where(inside, scaled.round() - scaled, scaled.clamp(ctx.low, ctx.high))
        moved = (gradients[0] * by_step).sum_to_size(step.shape) * ctx.scale
        return gradients[0] * inside, moved / step, None, None, None


class _Bounded(torch.autograd.Function):
    """The same number, with a gradient of at most 1."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0].clamp(-STEEPEST, STEEPEST)


def learned_quantize(x: Tensor, log_step: Tensor, low: int, high: int, numbers: float) -> Tensor:
    """x on the grid of exp(log_step), differentiable by both.

    Args:
        x: any shape.
        log_step: (1,), or (C, 1, ..) for a step a channel.
        low, high: -Qn and Qp.
        numbers: N, how many numbers of x share a step; of inputs, those of one example.
    """
    value: Tensor = _LearnedStep.apply(x, log_step, low, high, numbers)
    return value


def input_levels(bits: int, signed: bool) -> tuple[int, int]:
    """(low, high) of inputs: -2^(b-1) .. 2^(b-1) - 1, or 0 .. 2^b - 1 where none is negative."""
    return levels(bits, full_range=True) if signed else (0, (1 << bits) - 1)


class LearnedStep(nn.Module):
    """A quantizer with a learned step, for training; in evaluation mode it does nothing.

    Its parameter is what log s has moved since it was attached: weight decay then pulls to where the round began.
    """

    def __init__(self, start: Tensor | None, shape: tuple[int, ...], device: torch.device) -> None:
        super().__init__()
        self.start = None if start is None else start.to(device)
        self.moved = nn.Parameter(torch.zeros(shape, device=device))

    @property
    def log_step(self) -> Tensor:
        """log s as it stands.

        Raises:
            RuntimeError: it begins at the first input, and none was seen.
        """
        if self.start is None:
            raise RuntimeError("a learned step was asked for before any input was seen")
        return (self.start + self.moved).detach()


class LearnedWeight(LearnedStep):
    """A parametrization of weights; without a start it begins at the scheme's range."""

    def __init__(self, weight: Tensor, bits: int, scheme: Scheme, start: Tensor | None = None) -> None:
        first = weight_grid(weight, bits, scheme).step.log().reshape(shape_of(weight, scheme))
        super().__init__(first if start is None else start, tuple(first.shape), weight.device)
        self.bounds = levels(bits, scheme.full_range)
        self.numbers = weight.numel() / first.numel()

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.start is None:
            return x
        return learned_quantize(x, self.start + _Bounded.apply(self.moved), *self.bounds, self.numbers)


class LearnedInput(LearnedStep):
    """A quantizer of a layer's inputs (b, ..); the first batch says whether they have a sign.

    Without a start it begins at 2 mean |x| / sqrt(Qp) of that batch, as the paper does.
    """

    def __init__(self, bits: int, device: torch.device, start: Tensor | None = None) -> None:
        super().__init__(start, (1,), device)
        self.bits = bits
        self.bounds: tuple[int, int] | None = None

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        if self.bounds is None:
            self.bounds = input_levels(self.bits, bool(x.detach().amin() < 0))
        if self.start is None:
            mean = x.detach().abs().mean().clamp(min=torch.finfo(x.dtype).tiny)
            self.start = (2 * mean / sqrt(self.bounds[1])).log().reshape(1)
        return learned_quantize(x, self.start + _Bounded.apply(self.moved), *self.bounds, x[0].numel())


def shape_of(weight: Tensor, scheme: Scheme) -> tuple[int, ...]:
    """The shape of a weight's log steps on the wire: (1,), or (C, 1, ..)."""
    return (len(weight), *[1] * (weight.dim() - 1)) if scheme.per_channel else (1,)


def weight_name(layer: str) -> str:
    """The name under which a weight's log step travels."""
    return PREFIX + f"{layer}.weight".lstrip(".") + STEP


def input_name(layer: str) -> str:
    """The name under which the log step of a layer's input travels."""
    return PREFIX + f"{layer}.input".lstrip(".") + STEP


@dataclass(frozen=True)
class Learned:
    """The steps that a model was trained with.

    Attributes:
        bits: the one width they belong to.
        steps: log s by `weight_name` and `input_name`.
    """

    bits: int
    steps: Mapping[str, Tensor]

    def weight(self, layer: str, scheme: Scheme) -> Grid | None:
        """The grid of a layer's weight; None where none was learned."""
        return self._grid(weight_name(layer), *levels(self.bits, scheme.full_range))

    def input(self, layer: str, signed: bool) -> Grid | None:
        """The grid of a layer's input; None where none was learned."""
        return self._grid(input_name(layer), *input_levels(self.bits, signed))

    def _grid(self, name: str, low: int, high: int) -> Grid | None:
        if name not in self.steps:
            return None
        step = self.steps[name].exp()
        return Grid(step, torch.tensor(float(low)), torch.tensor(float(high)))
