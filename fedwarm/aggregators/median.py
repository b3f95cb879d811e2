"""The rule `median`, coordinate by coordinate.

Yin, Chen, Kannan, Bartlett, "Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates", ICML 2018, arXiv
1803.01498, Definition 1.
"""

from __future__ import annotations

import numpy as np

from fedwarm.aggregators import Robust, unweighted
from fedwarm.core.norms import Floats
from fedwarm.settings.registry import component


@component(does=unweighted)
def median(values: Floats, robust: Robust) -> Floats:
    """The middle value of every coordinate, or the mean of the two in the middle: (n, d) -> (d,)."""
    middle: Floats = np.median(values, axis=0)
    return middle


COMPONENT = median
