"""Accuracy of tokens; tasks with one answer an example count it themselves (`tasks.Task.right`)."""

from __future__ import annotations

from fedwarm.metrics import Metric, Numbers
from fedwarm.metrics._sums import TOKENS


def value(total: Numbers, width: int) -> float | None:
    """Share of the tokens that are asked for."""
    _, right, count = total
    return float(right / count) if count else None


COMPONENT = Metric(
    "Accuracy", "share of right answers; of tokens in a language task", TOKENS, value, share=True, usual=("tokens",)
)
