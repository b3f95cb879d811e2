"""F1: the harmonic mean of precision and recall, averaged over classes or labels (macro)."""

from __future__ import annotations

import numpy as np

from fedwarm.metrics import Metric, Numbers
from fedwarm.metrics._sums import COUNTS


def value(total: Numbers, width: int) -> float | None:
    """Mean of 2 right / (2 right + wrong + missed) over the classes that are true or said anywhere."""
    right, wrong, missed = total.reshape(width, 3).T
    seen = right + wrong + missed > 0
    return float(np.mean((2 * right / np.maximum(1, 2 * right + wrong + missed))[seen])) if seen.any() else None


COMPONENT = Metric("F1", "mean over classes or labels of F1 (macro)", COUNTS, value, share=True, usual=("labels",))
