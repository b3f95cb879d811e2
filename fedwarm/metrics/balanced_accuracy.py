"""Balanced accuracy: the mean over classes of the share of their examples that are found (Brodersen et al., ICPR 2010)."""

from __future__ import annotations

import numpy as np

from fedwarm.metrics import Metric, Numbers
from fedwarm.metrics._sums import COUNTS


def value(total: Numbers, width: int) -> float | None:
    """Mean recall of the classes that there are examples of."""
    right, _, missed = total.reshape(width, 3).T
    there = right + missed > 0
    return float(np.mean(right[there] / (right + missed)[there])) if there.any() else None


COMPONENT = Metric(
    "Balanced accuracy", "mean over classes of the share of their examples that are found", {"classes": COUNTS["classes"]},
    value, share=True,
)  # fmt: skip
