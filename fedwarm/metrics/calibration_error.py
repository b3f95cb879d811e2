"""Expected calibration error: how far confidence is from the share of right answers (Guo et al., arXiv 1706.04599, eq. 3)."""

from __future__ import annotations

from typing import Any

import numpy as np

from fedwarm.metrics import Metric, Numbers
from fedwarm.metrics._sums import BINS, BY_CONFIDENCE


def value(total: Numbers, width: int) -> float | None:
    """Mean over examples of the gap in their bin, one of 15 of equal width."""
    count, sure, right = total.reshape(3, BINS)
    return float(np.abs(sure - right).sum() / count.sum()) if count.sum() else None


def table(total: Numbers, width: int) -> list[Any]:
    """By bin: examples, mean confidence and share of right answers (None of an empty bin)."""
    rows = total.reshape(3, BINS).T
    return [[int(n), sure / n if n else None, right / n if n else None] for n, sure, right in rows.tolist()]


COMPONENT = Metric(
    "Calibration error", "mean gap between confidence and share of right answers, in 15 bins (ECE)", BY_CONFIDENCE, value, table,
    lower=True, share=True,
)  # fmt: skip
