"""Lengths of updates, and which of them is too long to be honest.

An update is x_k - w, of the arrays that client k sent and the reference w that it started from. Norms go over all float arrays
together, in float64 and with the same bits on every machine (see `fedwarm.core.sums`); integer arrays (counters) have no part.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from fedwarm.core.arrays import Arrays
from fedwarm.core.sums import norm

Floats = NDArray[np.float64]
Named = Mapping[str, NDArray[np.generic]]
SLACK = 10.0
FLOOR = 0.1
BLOCK = 2**18


def floats(arrays: Named) -> list[str]:
    """The names of the float arrays."""
    return [name for name, array in arrays.items() if np.issubdtype(array.dtype, np.floating)]


def check_like(arrays: Named, like: Named) -> None:
    """See that arrays have the names and shapes of others.

    Raises:
        ValueError: they differ; the message says where.
    """
    if arrays.keys() != like.keys():
        raise ValueError(f"arrays differ in their names: {sorted(arrays.keys() ^ like.keys())[:5]}")
    for name, array in arrays.items():
        if array.shape != like[name].shape:
            raise ValueError(f"{name} has shape {array.shape}, expected {like[name].shape}")


def along(arrays: Arrays, reference: Named, factor: float) -> Arrays:
    """w + factor (x - w) for float arrays, in their dtypes; integer arrays as they are. A name the reference lacks has w = 0.

    Values that the dtype cannot hold become infinite.
    """
    out = dict(arrays)
    with np.errstate(over="ignore"):
        for name in floats(arrays):
            start = reference[name].astype(np.float64) if name in reference else np.float64(0)
            out[name] = cast(start + factor * (arrays[name].astype(np.float64) - start), arrays[name].dtype)
    return out


def cast(values: Floats, dtype: np.dtype[np.generic]) -> NDArray[np.generic]:
    """Numbers in another dtype, rounded to the nearest where that holds integers."""
    return np.asarray(np.rint(values) if np.issubdtype(dtype, np.integer) else values).astype(dtype)


def blocks(replies: Sequence[Arrays], name: str, size: int = BLOCK) -> Iterator[Floats]:
    """One array of all n replies in float64, some coordinates at a time: (n, d) with d at most `size`."""
    rows = [reply[name].reshape(-1) for reply in replies]
    for start in range(0, rows[0].size, size):
        yield np.stack([row[start : start + size].astype(np.float64) for row in rows])


def update_norm(arrays: Named, reference: Named) -> float:
    """||x - w|| over all float arrays together.

    Raises:
        ValueError: names or shapes differ.
    """
    check_like(arrays, reference)
    return norm((arrays[name], reference[name]) for name in floats(arrays))


def reference_norm(reference: Named) -> float:
    """||w||, but at least FLOOR sqrt(d) for d numbers, so that a model which starts at zero has a length too."""
    names = floats(reference)
    return max(norm((reference[name], None) for name in names), FLOOR * math.sqrt(sum(reference[name].size for name in names)))


def too_large(norm: float, reference_norm: float, accepted_norms: Sequence[float], limit: float) -> bool:
    """Whether an update is refused for its length: it is not finite, or

    - longer than `limit` times the reference, or
    - longer than `SLACK limit` times the longest update that was accepted lately (where one was that is not 0).

    The first catches a fault in the first rounds; the second when updates are so short that even a spoilt one is no longer than
    the model. At the default of 100: where honest updates, now and in the history, are within a factor of 1000 of one another and
    at most 100 times as long as the reference, none is refused, and each is if made a million times longer. Without a history the
    latter holds for those longer than 1e-4 of the reference.

    Args:
        norm: ||x_k - w||, from `update_norm`.
        reference_norm: from `reference_norm`.
        accepted_norms: those of earlier rounds that were accepted, some rounds back; not of this round, whose order is chance.
        limit: the setting `robust.limit`; 0 refuses nothing.
    """
    if limit == 0:
        return False
    longest = max(accepted_norms, default=0.0)
    return not math.isfinite(norm) or norm > limit * reference_norm or (longest > 0 and norm > SLACK * limit * longest)


def too_long(length: float, limit: float) -> str:
    """Why an update of this norm is left out, and what to do."""
    return (
        f"its update has norm {length:.3g}, more than robust.limit = {limit:g} times the model's; if training diverges, lower "
        "learning-rate, or bring inputs and targets to a scale near 1"
    )
