"""R2, the coefficient of determination: how much of the targets' variance is explained."""

from __future__ import annotations

import numpy as np

from fedwarm.metrics import Metric, Numbers
from fedwarm.metrics._sums import ERRORS, NUMBERS

ROUNDING = 1e-13  # what is left of squares that cancel


def value(total: Numbers, width: int) -> float | None:
    """1 - squared errors / squared deviations of the targets from their mean; mean over outputs whose targets differ."""
    count, _, squares, targets, squared = total.reshape(-1, NUMBERS).T
    spread = squared - targets**2 / np.maximum(count, 1)
    known = spread > ROUNDING * np.maximum(squared, 1e-300)
    return float(np.mean(1 - squares[known] / spread[known])) if known.any() else None


COMPONENT = Metric(
    "R2", "share of the targets' variance that is explained; 0: no better than their mean", ERRORS, value, usual=("numbers",)
)
