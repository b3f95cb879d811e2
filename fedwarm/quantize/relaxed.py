"""Relaxed quantization: a grid learned by gradient descent through noise, a categorical law and its concrete relaxation.

Louizos, Reisser, Blankevoort, Gavves, Welling, "Relaxed Quantization for Discretized Neural Networks", ICLR 2019,
arXiv 1810.01875. The grid is g = alpha k, k = low .. high, with 0 on it; x + noise falls into the bin of g with mass pi_g,
renormalised over the bins there are. All is reckoned from the grid point nearest to x. With u = (g - x) / sigma,
r = alpha / sigma and S the logistic function, pi_g = S(u + r/2) - S(u - r/2) is S(u + r/2) S(r/2 - u) but for a factor that all
g share. Products do not cancel, and the nearest point's never underflows: so no small constant is added, which would make the
law uniform far off the grid.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import floor, log
from typing import Any, Self

import torch
from torch import Tensor, nn

from fedwarm.core.sums import sum_squares

VARIANTS = ("rq_st", "rq", "sr")
REACH, TOP = 40.0, 80.0
BLOCK = 1 << 16
CANDIDATES, SAMPLE = 40, 1 << 14
Bounds = tuple[int, int]


@dataclass(frozen=True)
class Rule:
    """How a tensor is quantized while training.

    Attributes:
        bits: b; the grid has 2^b points.
        variant: `rq`: relaxed values; `rq_st`: grid values forward, the relaxed gradient backward; `sr`: stochastic rounding.
        noise: `logistic` or `gaussian`.
        temperature: lambda of the concrete relaxation.
        local_grid: sample only grid points near x.
        delta_w: half width of the local grid in units of sigma; the nearest point's two neighbours always belong to it.
        floor: least sigma / alpha.
        start: first alpha: `range`: (max - min) / (2^b - 1); `mse`: the part of it that rounds with the least squared error.
        start_sigma: first sigma / alpha.
    """

    bits: int
    variant: str
    noise: str
    temperature: float
    local_grid: bool
    delta_w: float
    floor: float
    start: str
    start_sigma: float

    def half_window(self, ratio: float) -> int:
        """m at sigma / alpha = ratio: 2 m + 1 points are sampled, those of the grid among them; 2^b - 1 where it is not local."""
        every = (1 << self.bits) - 1
        return floor(min(max(1.0, self.delta_w * ratio + 1e-4), every)) if self.local_grid else every


def bounds(bits: int, signed: bool) -> Bounds:
    """(low, high) of the grid: -2^(b-1) .. 2^(b-1) - 1, or 0 .. 2^b - 1 behind a ReLU."""
    return (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)


def rounded(x: Tensor, alpha: Tensor | float, grid: Bounds) -> Tensor:
    """The test-time quantizer: alpha clip(round(x / alpha)), ties to even; idempotent."""
    return (x / alpha).round().clamp(*grid) * alpha


# The categorical law


def _law(noise: str, u: Tensor, r: float) -> tuple[Tensor, Tensor, Tensor]:
    """Of a bin at u: its mass, d log mass / du and d log mass / d(r/2), the first and last but for what all bins share."""
    if noise == "gaussian":
        high, low = torch.special.log_ndtr(r / 2 - u.abs()), torch.special.log_ndtr(-r / 2 - u.abs())
        log_mass = high + torch.log(-torch.expm1(low - high))
        scale = -0.9189385332046727 - log_mass
        upper, lower = ((scale - (u + s * r / 2) ** 2 / 2).exp() for s in (1, -1))
        return log_mass, upper - lower, upper + lower
    left, right = (u - r / 2).clamp_(max=TOP).exp_(), (u + r / 2).clamp_(max=TOP).exp_()
    inner, above = (1 + left).reciprocal_(), (1 + right).reciprocal_()  # S(r/2 - u), S(-u - r/2)
    mass = right.mul_(above).mul_(inner)
    below = left.mul_(inner)  # S(u - r/2)
    return mass, above - below, above.add_(below)


def _steps(near: Tensor, half: int, grid: Bounds) -> tuple[Tensor, Tensor]:
    """Candidates as steps from the nearest grid point, (W, 1) or (K, n), and which of them count."""
    low, high = grid
    if 2 * half + 1 < high - low + 1:
        steps = torch.arange(-half, half + 1, dtype=near.dtype, device=near.device)[:, None]
        at = near + steps
        return steps, (at >= low) & (at <= high)
    steps = torch.arange(low, high + 1, dtype=near.dtype, device=near.device)[:, None] - near
    return steps, steps.abs() <= half


def _weights(x: Tensor, alpha: float, sigma: float, noise: str, half: int, grid: Bounds) -> tuple[Tensor, ...]:
    """Nearest point k (n,), its distance, candidate steps and their unnormalised masses, slopes and spreads (W, n)."""
    near = (x / alpha).round_().clamp_(*grid)
    if noise == "uniform":
        distance = x.clamp(alpha * grid[0], alpha * grid[1]) - near * alpha
        steps, counts = _steps(near, max(half, 1), grid)
        mass = (1 - (steps - distance / alpha).abs()).clamp(min=0)
        return near, distance, steps, mass * counts, mass, mass
    reach = alpha / 2 + REACH * sigma  # the law has long stopped changing there
    distance = (x - near * alpha).clamp_(-reach, reach)
    steps, counts = _steps(near, half, grid)
    mass, slope, spread = _law(noise, (steps * alpha - distance) / sigma, alpha / sigma)
    if noise == "gaussian":
        mass = mass.where(counts, -torch.inf)
        mass = (mass - mass.amax(0)).exp_()
        return near, distance, steps, mass, slope.where(mass > 0, 0.0), spread.where(mass > 0, 0.0)
    return near, distance, steps, mass.mul_(counts), slope, spread


def masses(x: Tensor, alpha: float, sigma: float, grid: Bounds, noise: str = "logistic", half: int | None = None) -> Tensor:
    """pi (*x, K): the law of a quantized x over the whole grid, zero outside the local window of 2 `half` + 1 points if given.

    `noise = "uniform"` is uniform on an interval of length alpha, whatever sigma: stochastic rounding.
    """
    low, high = grid
    flat = x.reshape(-1)
    near, _, steps, mass, _, _ = _weights(flat, alpha, sigma, noise, high - low if half is None else half, grid)
    out = torch.zeros(flat.numel(), high - low + 1, dtype=x.dtype, device=x.device)
    index = (near + steps - low).long().expand_as(mass).T
    inside = (index >= 0) & (index <= high - low)
    out.scatter_add_(1, index.clamp(0, high - low), (mass / mass.sum(0)).T * inside)
    return out.reshape(*x.shape, high - low + 1)


# Samples and their derivatives


def relax(x: Tensor, race: Tensor, alpha: float, sigma: float, rule: Rule, grid: Bounds) -> tuple[Tensor, ...]:
    """A block: sample (n,) and the derivatives of the relaxed sample by x, alpha and sigma (n,); `race` (W, n) is Exp(1).

    exp((log pi + Gumbel) / lambda) = (pi / race)^(1 / lambda): the same law without a logarithm.
    """
    near, distance, steps, mass, slope, spread = _weights(x, alpha, sigma, rule.noise, rule.half_window(sigma / alpha), grid)
    y = mass / race
    best = y.amax(0)
    hard = None if rule.variant == "rq" else torch.where(y >= best, steps, -torch.inf).amax(0)
    if rule.temperature != 1.0:
        y = (y / best).pow_(1 / rule.temperature)
    y /= y.sum(0)
    weighted = y * steps
    mean = weighted.sum(0)
    weighted -= y * mean  # y (o - mean)
    r, scale = alpha / sigma, alpha / sigma / rule.temperature
    by_x = (weighted * slope).sum(0).mul_(-scale)
    by_alpha = mean + (weighted * (steps * slope + spread / 2)).sum(0).mul_(scale)
    by_sigma = r * mean - (distance / sigma) * by_x - r * by_alpha  # the sample is homogeneous in (x, alpha, sigma)
    by_alpha += near - near * by_x
    return (near + (mean if hard is None else hard)) * alpha, by_x, by_alpha, by_sigma


def _stochastic(x: Tensor, draws: Tensor, alpha: float, grid: Bounds) -> tuple[Tensor, ...]:
    """A block of stochastic rounding with uniforms (n,), and the derivatives of its mean: x clipped to the grid."""
    scaled = x / alpha
    clipped = scaled.clamp(*grid)
    inside = (clipped == scaled).to(x.dtype)
    return (clipped + draws).floor_().clamp_(*grid) * alpha, inside, clipped * (1 - inside), torch.zeros_like(x)


class _Sample(torch.autograd.Function):
    """Samples block by block: working memory depends neither on the tensor nor on b. Keeps three derivatives an element."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, alpha: Tensor, sigma: Tensor, rule: Rule, grid: Bounds, draws: torch.Generator) -> Tensor:
        a, s = float(alpha.detach()), float(sigma.detach())
        window = 1 if rule.variant == "sr" else min(2 * rule.half_window(s / a) + 1, 1 << rule.bits)
        out = x.new_empty(4, x.numel())
        for block, into in zip(*(t.split(max(1, BLOCK // window), -1) for t in (x.detach().reshape(-1), out)), strict=True):
            uniform = x.new_empty(window, block.numel()).uniform_(generator=draws)
            if rule.variant == "sr":
                parts = _stochastic(block, uniform[0], a, grid)
            else:
                race = uniform.clamp_(min=1e-30).log_().neg_().clamp_(min=1e-30)
                parts = relax(block, race, a, s, rule, grid)
            torch.stack(parts, out=into)
        ctx.save_for_backward(*(part.reshape(x.shape) for part in out[1:]))
        return out[0].reshape(x.shape)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        by_x, by_alpha, by_sigma = ctx.saved_tensors
        g = gradients[0]
        return g * by_x, (g * by_alpha).sum(), (g * by_sigma).sum(), None, None, None


def sample(x: Tensor, alpha: Tensor, sigma: Tensor, rule: Rule, grid: Bounds, draws: torch.Generator) -> Tensor:
    """A noisy quantized x, differentiable by x, alpha and sigma (scalars); `draws` is on x's device.

    Memory and time follow the window, not the grid, where the grid is local. Half precision is computed in single.
    """
    if not x.numel():
        return x
    if x.dtype in (torch.float16, torch.bfloat16):
        return sample(x.float(), alpha, sigma, rule, grid, draws).to(x.dtype)
    out: Tensor = _Sample.apply(x, alpha, sigma, rule, grid, draws)
    return out


# The module


def first_alpha(x: Tensor, rule: Rule, grid: Bounds) -> float:
    """alpha to start from; 1 where x is constant zero."""
    x = x.detach().reshape(-1).float()
    x = x[:: max(1, x.numel() // SAMPLE)] if rule.start == "mse" and x.numel() > SAMPLE else x
    reach = float(x.max().clamp(min=0) - x.min().clamp(max=0))
    widest = reach / ((1 << rule.bits) - 1)
    if not 0 < widest < float("inf"):
        return 1.0
    if rule.start == "range":
        return widest
    tried = [widest * 1.6 * (i + 1) / CANDIDATES for i in range(CANDIDATES)]
    return min(tried, key=lambda a: sum_squares(rounded(x, a, grid).cpu().numpy(), x.cpu().numpy()))


class Quantizer(nn.Module):
    """A quantizer of one tensor with learned log alpha and log sigma: a parametrization of weights, or applied to inputs.

    It begins at the first tensor it sees, unless it is given logs; then too the first tensor says whether the grid starts at 0.
    In evaluation mode it rounds and draws nothing. Its parameter is what the logs have moved since they were given: weight decay
    and proximal terms then pull to where the round began.
    """

    def __init__(self, rule: Rule, draws: torch.Generator, signed: bool | None = None) -> None:
        super().__init__()
        self.rule, self.draws = rule, draws
        self.grid = None if signed is None else bounds(rule.bits, signed)
        self.first: Tensor | None = None
        self.moved = nn.Parameter(torch.zeros(2))

    @property
    def logs(self) -> Tensor:
        """(log alpha, log sigma) as they stand (2,).

        Raises:
            RuntimeError: the quantizer begins at the first tensor, and none was seen.
        """
        if self.first is None:
            raise RuntimeError("a learned grid was asked for before any tensor was seen")
        return (self.first + self.moved).detach()

    def load(self, log_alpha: Tensor | float, log_sigma: Tensor | float) -> None:
        """Take these logs."""
        self.first = torch.tensor([float(log_alpha), float(log_sigma)], dtype=self.moved.dtype, device=self.moved.device)
        with torch.no_grad():
            self.moved.zero_()

    def scales(self) -> tuple[Tensor, Tensor]:
        """alpha and sigma; sigma is held at `floor` alpha."""
        assert self.first is not None
        log_alpha, log_sigma = self.first + self.moved
        alpha = log_alpha.exp()
        return alpha, (log_sigma - log_alpha).exp().clamp(min=self.rule.floor) * alpha

    def start(self, x: Tensor) -> Self:
        """Take grid and logs from a tensor, those that are not there yet."""
        if self.grid is None:
            self.grid = bounds(self.rule.bits, bool(x.detach().amin() < 0))
        if self.first is None:
            alpha = first_alpha(x, self.rule, self.grid)
            self.load(log(alpha), log(alpha * self.rule.start_sigma))
        return self

    def forward(self, x: Tensor) -> Tensor:
        alpha, sigma = self.start(x).scales()
        assert self.grid is not None
        if not self.training:
            return rounded(x, alpha, self.grid)
        if self.draws.device.type != x.device.type:
            seed = int(torch.randint(1 << 62, (), generator=self.draws))
            self.draws = torch.Generator(x.device).manual_seed(seed)
        return sample(x, alpha, sigma, self.rule, self.grid, self.draws)
