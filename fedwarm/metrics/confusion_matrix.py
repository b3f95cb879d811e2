"""The confusion matrix: how many examples of each class get which answer."""

from __future__ import annotations

from typing import Any

from fedwarm.metrics import Metric, Numbers
from fedwarm.metrics._sums import CONFUSION


def table(total: Numbers, width: int) -> list[Any]:
    """Examples by true class (rows) and answer (columns)."""
    found: list[Any] = total.reshape(width, width).round().astype(int).tolist()
    return found


COMPONENT = Metric(
    "Confusion matrix", "examples by true class and answer, drawn on the page", {"classes": CONFUSION}, table=table
)
