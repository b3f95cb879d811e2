"""The task's own loss on test examples."""

from __future__ import annotations

from fedwarm.metrics import Metric, Numbers
from fedwarm.metrics._sums import LOSSES


def value(total: Numbers, width: int) -> float | None:
    """Mean over examples, over tokens in a language task."""
    return float(total[0] / total[1]) if total[1] else None


COMPONENT = Metric("Loss", "the task's own loss, mean over test examples", LOSSES, value, lower=True)
