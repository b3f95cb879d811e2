"""The rule `mean`: each client counts by its number of images.

McMahan, Moore, Ramage, Hampson, Aguera y Arcas, "Communication-Efficient Learning of Deep Networks from Decentralized Data",
AISTATS 2017, arXiv 1602.05629.
"""

from __future__ import annotations

from fedwarm.aggregators import Robust
from fedwarm.core.arrays import WeightedMean


class Mean(WeightedMean):
    """The mean weighted by numbers of images, as a running sum; not robust: a single client can change it arbitrarily."""

    def __init__(self, robust: Robust) -> None:
        super().__init__()


COMPONENT = Mean
