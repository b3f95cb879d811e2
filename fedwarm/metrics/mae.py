"""Mean absolute error."""

from __future__ import annotations

from fedwarm.metrics import Metric, Numbers
from fedwarm.metrics._sums import ERRORS, NUMBERS


def value(total: Numbers, width: int) -> float | None:
    """Mean size of the error over examples and outputs, in the targets' unit."""
    count, sizes, *_ = total.reshape(-1, NUMBERS).sum(0)
    return float(sizes / count) if count else None


COMPONENT = Metric(
    "Mean absolute error", "mean size of the error, in the targets' unit", ERRORS, value, lower=True, usual=("numbers",)
)
