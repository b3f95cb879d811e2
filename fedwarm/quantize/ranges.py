"""Where a grid ends: by min-max or by the least squared error, and over batches by an exponential moving average.

The squared error of every candidate comes from one sort: of all values, or of 131,072 at even distances where there are more.
With magnitudes a and whole levels 0 .. L, Q(a) = Delta sum_k 1[a > (k - 1/2) Delta], so
sum (a - Q(a))^2 = sum a^2 - 2 Delta sum_k S_k + Delta^2 sum_k (2k - 1) N_k. S_k and N_k are the sum and number of those above
(k - 1/2) Delta: look-ups in a sorted array and its running sum.
"""

from __future__ import annotations

from math import gcd

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fedwarm.quantize.uniform import Grid, Scheme, affine_grid, levels

CANDIDATES = 100
SEARCHED_BITS = 8
SAMPLE, SEARCHED = 1 << 13, 1 << 17
USUAL_FACTORS = 2 * 3 * 5 * 7
QUERIES = 1 << 20
DECAY = 0.9


def grid_of(
    x: Tensor, bits: int, *, rule: str = "mse", affine: bool = False, per_channel: bool = False, full_range: bool = False
) -> Grid:
    """The grid for the values of x.

    Args:
        x: any shape; channels along the first dimension.
        bits: 2 to 16. `mse` looks for the range up to 8 bits; above, cutting the range off gains nothing and min-max is taken.
        rule: `mse`, the step of least squared error among 1/100 .. 100/100 of min-max's, or `minmax`.
        affine: 2^b values from min to max, else symmetric about 0.
        per_channel: one step a channel, (C, 1, ..), else one, ().
        full_range: a symmetric grid with -2^(b-1).

    Raises:
        SettingError: no grid has this width.
    """
    x = x.detach()
    x = x if x.dtype == torch.float64 else x.float()
    rows = x.flatten(1) if per_channel and x.dim() > 1 else x.reshape(len(x) if per_channel else 1, -1)
    low, high = levels(bits, full_range)
    if affine:
        grid = affine_grid(rows.amin(1, keepdim=True), rows.amax(1, keepdim=True), bits)
    else:
        step = (rows.abs().amax(1, keepdim=True) / high).clamp(min=torch.finfo(rows.dtype).tiny)
        grid = Grid(step, torch.full_like(step, low), torch.full_like(step, high))
    if rule == "mse" and bits <= SEARCHED_BITS:
        some = rows[:, :: stride(rows.shape[1], SEARCHED)]
        grid = Grid(_best_steps(some, grid, symmetric=not affine and not full_range), grid.low, grid.high)
    shape = (-1, *[1] * (x.dim() - 1)) if per_channel else ()
    return Grid(grid.step.reshape(shape), grid.low.reshape(shape), grid.high.reshape(shape))


def weight_grid(weight: Tensor, bits: int, scheme: Scheme) -> Grid:
    """The grid of a layer's weights (out, ..)."""
    return grid_of(weight, bits, rule=scheme.rule, per_channel=scheme.per_channel, full_range=scheme.full_range)


def _best_steps(rows: Tensor, grid: Grid, symmetric: bool) -> Tensor:
    """The candidate of least squared error for each row of (R, n), at the bounds of `grid`: (R, 1)."""
    count = max(1, QUERIES // (CANDIDATES * int((grid.high - grid.low).max())))
    parts = [(rows.abs(), grid.high)] if symmetric else [(rows.clamp(min=0), grid.high), ((-rows).clamp(min=0), -grid.low)]
    fractions = torch.arange(1, CANDIDATES + 1, device=rows.device, dtype=torch.float64) / CANDIDATES
    steps = grid.step.double() * fractions
    gains = torch.zeros_like(steps)
    for values, most in parts:
        cut = zip(values.split(count), steps.split(count), most.split(count), strict=True)
        gains += torch.cat([_gain(_ascending(v), s, m.double()) for v, s, m in cut])
    best = fractions[gains.argmax(1, keepdim=True)]
    return (grid.step.double() * best).to(grid.step.dtype).clamp(min=torch.finfo(grid.step.dtype).tiny)


def _ascending(rows: Tensor) -> Tensor:
    """Each row sorted: by numpy where it can, as it is several times faster on a CPU."""
    if rows.device.type == "cpu" and not torch._C._functorch.is_functorch_wrapped_tensor(rows):
        return torch.from_numpy(np.sort(rows.numpy(), axis=1))
    return rows.sort(1).values


def _gain(values: Tensor, steps: Tensor, most: Tensor) -> Tensor:
    """What each step takes off the squared error of all zeros: ascending values (R, n) >= 0, steps (R, K), L (R, 1) -> (R, K)."""
    k = torch.arange(1, int(most.max()) + 1, device=values.device, dtype=torch.float64)
    edges = (steps[:, :, None] * (k - 0.5)).to(values.dtype)
    first = torch.searchsorted(values, edges.flatten(1))
    sums = F.pad(values.double().cumsum(1), (1, 0))
    above = (sums[:, -1:] - sums.gather(1, first)).reshape(edges.shape)
    counts = (values.shape[1] - first).reshape(edges.shape).double()
    there = k <= most[:, :, None]
    return 2 * steps * (above * there).sum(2) - steps.square() * (counts * there * (2 * k - 1)).sum(2)


def stride(count: int, most: int) -> int:
    """The least distance that leaves `most` of `count` values and shares no factor with usual shapes: all columns are visited."""
    distance = -(-count // most)
    while distance > 1 and gcd(distance, USUAL_FACTORS) > 1:
        distance += 1
    return distance


def spread(x: Tensor, most: int = SAMPLE) -> Tensor:
    """At most `most` values of x at even distances, and its least and largest among them: (n,)."""
    flat = x.detach().reshape(-1)
    thin = flat[:: stride(flat.numel(), most - 2)]
    return torch.cat([thin, torch.stack(flat.aminmax())])


class Running:
    """The range of inputs, by a rule, over batches: for each width an exponential moving average of the grid's two ends.

    It begins at the first batch, and covers 0 always.
    """

    def __init__(self, rule: str, decay: float = DECAY) -> None:
        self.rule, self.decay = rule, decay
        self.ends: dict[int, Tensor] = {}

    def update(self, x: Tensor, bits: int) -> Grid:
        """Take in a batch; the grid after it."""
        grid = grid_of(spread(x), bits, rule=self.rule, affine=True)
        ends = torch.stack([grid.low * grid.step, grid.high * grid.step])
        if bits in self.ends:
            ends = self.decay * self.ends[bits] + (1 - self.decay) * ends
        self.ends[bits] = ends
        return affine_grid(ends[0], ends[1], bits)
