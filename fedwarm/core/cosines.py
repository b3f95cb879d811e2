"""Angles between updates: their inner products, the cosine distances that follow, and how far apart these say that clients are.

Numbers are the same on every machine and with any number of threads (see `fedwarm.core.sums`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from fedwarm.core.arrays import Arrays
from fedwarm.core.norms import Floats, blocks
from fedwarm.core.sums import LANES, lanes, sum_squares, total

AT_ONCE = 2**20
DIGITS = 12  # of a distance; what is smaller is rounding


def products(replies: Sequence[Arrays], start: Arrays, names: Iterable[str]) -> Floats:
    """<x_i - w, x_j - w> over the arrays of these names, w = `start`: (n, n), from some coordinates at a time."""
    count = len(replies)
    found, size = np.zeros((count, count)), max(LANES, AT_ONCE // max(1, count))
    with np.errstate(over="ignore", invalid="ignore"):
        for name in sorted(names):
            for values, origin in zip(blocks(replies, name, size), blocks([start], name, size), strict=True):
                moves = values - origin
                for i in range(count):
                    found[i, i:] += [total(row) for row in lanes(moves[i:] * moves[i]).tolist()]
    return found + np.triu(found, 1).T


def cosine_distances(products: Floats) -> Floats:
    """1 - cos of every two, in [0, 2]: (n, n); 1 to all others of one that is zero, 0 to itself."""
    lengths = np.sqrt(np.diag(products))
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        cosines = products / np.outer(lengths, lengths)
    found: Floats = np.clip(1 - np.where(np.isfinite(cosines), cosines, 0.0), 0.0, 2.0).round(DIGITS)
    np.fill_diagonal(found, 0.0)
    return found


def temperature(distances: Floats) -> float | None:
    """||D||_F / sqrt(4 n (n - 1)), in [0, 1]: 0 where all agree, 1/2 where all are orthogonal; None of fewer than two."""
    count = len(distances)
    return math.sqrt(sum_squares(distances) / (4 * count * (count - 1))) if count > 1 else None
