"""Clip and noise: what bounds an update's influence, and the Gaussian mechanism that random coding tends to as K grows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedwarm.core.sums import norm
from fedwarm.privacy.randomness import SYSTEM, Source, normals

Vector = NDArray[np.float64]


class UpdateError(ValueError):
    """An update that cannot be released."""


def clip(update: Vector, limit: float) -> Vector:
    """update min(1, C / ||update||): a vector (d,) of norm `limit` at most; a shorter one is returned as it is.

    Raises:
        UpdateError: the update holds NaN or infinity, or its norm overflows float64.
    """
    length = norm_of(update)
    return update * (limit / length) if length > limit else update.copy()


def norm_of(update: Vector) -> float:
    """||update||, finite.

    Raises:
        UpdateError: it is not; the message says whether a number or only the norm is to blame.
    """
    length = norm([(update, None)])
    if np.isfinite(length):
        return length
    bad = int((~np.isfinite(update)).sum())
    if bad:
        raise UpdateError(
            f"{bad} of the update's {update.size} numbers are NaN or infinity; local training diverged, lower learning-rate"
        )
    raise UpdateError("the update's norm overflows; local training diverged, lower learning-rate")


def noised(update: Vector, sigma: float, source: Source = SYSTEM) -> Vector:
    """update + N(0, sigma^2 I), the Gaussian mechanism; (d,) -> (d,)."""
    return update + sigma * normals(update.size, source) if sigma > 0 else update.copy()
