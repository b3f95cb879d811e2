"""Sums of floats that have the same bits everywhere: wherever an array lies in memory, whatever number of threads or width of
vectors computes, and in whatever order the parts come.

A reduction of numpy, torch or BLAS may pick its order of additions by any of these. So numbers are first added row upon row,
which is arithmetic by element and leaves nothing to pick; then what is left, and the parts, by `math.fsum`, whose result is the
exact sum, rounded once (Shewchuk, "Adaptive Precision Floating-Point Arithmetic", Discrete Comput. Geom. 18, 1997).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from itertools import chain

import numpy as np
from numpy.typing import NDArray

LANES, FEWEST = 4096, 32
BLOCK = 2**18


def lanes(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Partial sums (.., FEWEST) of values (.., d): rows of LANES values are added up, then the upper half to the lower."""
    *shape, size = values.shape
    parts = np.zeros((*shape, LANES))
    for start in range(0, size, LANES):
        row = values[..., start : start + LANES]
        parts[..., : row.shape[-1]] += row
    while parts.shape[-1] > FEWEST:
        half = parts.shape[-1] // 2
        parts = parts[..., :half] + parts[..., half:]
    return parts


def total(parts: Iterable[float]) -> float:
    """The exact sum, rounded once; NaN or infinity where a part is, or where it overflows."""
    kept = list(parts)
    try:
        return math.fsum(kept)
    except (OverflowError, ValueError):  # too large for a float, or infinities of both signs: as plain additions have it
        return float(sum(kept))


def sum_squares(values: NDArray[np.generic], less: NDArray[np.generic] | None = None) -> float:
    """sum (x - y)^2 of arrays of one shape, computed in float64."""
    with np.errstate(over="ignore", invalid="ignore"):
        return total(chain.from_iterable(lanes(np.square(block)).tolist() for block in _differences(values, less)))


def norm(pairs: Iterable[tuple[NDArray[np.generic], NDArray[np.generic] | None]]) -> float:
    """sqrt(sum (x - y)^2) over all pairs of arrays (y None: 0), in any order."""
    return math.sqrt(total(sum_squares(x, y) for x, y in pairs))


def mean(values: Iterable[float]) -> float:
    """The mean of some numbers; NaN of none."""
    kept = list(values)
    return total(kept) / len(kept) if kept else math.nan


def _differences(values: NDArray[np.generic], less: NDArray[np.generic] | None) -> Iterator[NDArray[np.float64]]:
    flat = values.reshape(-1)
    for start in range(0, flat.size, BLOCK):
        block = flat[start : start + BLOCK].astype(np.float64)
        if less is not None:
            block -= less.reshape(-1)[start : start + BLOCK].astype(np.float64)
        yield block
