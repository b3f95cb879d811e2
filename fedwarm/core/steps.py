"""A server's step along a mean update."""

from __future__ import annotations

import numpy as np

from fedwarm.core.arrays import Arrays
from fedwarm.core.norms import cast, floats


def stepped(
    start: Arrays, end: Arrays, rate: float, momentum: float = 0.0, before: Arrays | None = None
) -> tuple[Arrays, Arrays]:
    """v <- m v + (end - start), w <- start + rate v, in float64 for float arrays; the others are those of the end.

    Args:
        start, end: the arrays before the round, and their mean after it.
        rate, momentum: of the step; at 1 and 0 it leads to `end` exactly.
        before: v of the last step; None: zero.

    Returns:
        w in the dtypes of `end`, and v in float64; v is empty without momentum.
    """
    if rate == 1.0 and momentum == 0.0:
        return end, {}
    moved, speed = dict(end), Arrays()
    for name in floats(start):
        origin = start[name].astype(np.float64)
        way = end[name].astype(np.float64) - origin
        if before:
            way = momentum * before[name].astype(np.float64) + way
        moved[name] = cast(origin + rate * way, end[name].dtype)
        speed[name] = way
    return moved, speed if momentum else {}
