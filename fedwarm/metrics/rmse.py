"""Root mean squared error."""

from __future__ import annotations

import numpy as np

from fedwarm.metrics import Metric, Numbers
from fedwarm.metrics._sums import ERRORS, NUMBERS


def value(total: Numbers, width: int) -> float | None:
    """Over examples and outputs, in the targets' unit."""
    count, _, squares, *_ = total.reshape(-1, NUMBERS).sum(0)
    return float(np.sqrt(squares / count)) if count else None


COMPONENT = Metric(
    "Root mean squared error",
    "root of the mean squared error, in the targets' unit",
    ERRORS,
    value,
    lower=True,
    main=("numbers",),
)
