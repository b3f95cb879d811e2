"""A robust rule: the mean of the values between the quartiles of every coordinate."""

from __future__ import annotations

import numpy as np

from fedwarm.aggregators import Robust
from fedwarm.core.norms import Floats


def middle(values: Floats, settings: Robust) -> Floats:
    """The mean of the middle half of every coordinate: (n, d) -> (d,)."""
    count = len(values)
    kept: Floats = np.sort(values, axis=0)[count // 4 : count - count // 4]
    return kept.mean(axis=0)
