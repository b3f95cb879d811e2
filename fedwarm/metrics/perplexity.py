"""Perplexity: e to the mean nats of a token (Jelinek et al., 1977)."""

from __future__ import annotations

import math

from fedwarm.metrics import Metric, Numbers
from fedwarm.metrics._sums import TOKENS


def value(total: Numbers, width: int) -> float | None:
    """Over all tokens that are asked for; None where it is beyond all numbers."""
    nats, _, count = total
    return math.exp(nats / count) if count and nats / count < 700 else None


COMPONENT = Metric(
    "Perplexity",
    "e to the mean nats of a token; as many guesses as that are as good",
    TOKENS,
    value,
    lower=True,
    main=("tokens",),
)
