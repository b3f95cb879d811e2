"""The rule `trimmed_mean`, coordinate by coordinate.

Yin, Chen, Kannan, Bartlett, "Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates", ICML 2018, arXiv
1803.01498, Definition 2.
"""

from __future__ import annotations

import math
from functools import reduce

import numpy as np

from fedwarm.aggregators import Robust, unweighted
from fedwarm.core.norms import Floats
from fedwarm.settings.registry import component


@component(does=unweighted, uses=lambda run: ("robust.trim",) if run.averages else ())
def trimmed_mean(values: Floats, robust: Robust) -> Floats:
    """The mean of every coordinate without its smallest and largest values: (n, d) -> (d,)."""
    cut = cuts(len(values), robust.trim)
    kept = np.sort(values, axis=0)[cut : len(values) - cut]
    mean: Floats = reduce(np.add, kept) / len(kept)
    return mean


def cuts(count: int, trim: float) -> int:
    """Replies that are cut off at each end: floor(trim count), but one where trim > 0 and there are three or more."""
    least = 1 if trim > 0 and count >= 3 else 0
    return max(least, math.floor(trim * count + 1e-9))


COMPONENT = trimmed_mean
