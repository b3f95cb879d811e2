"""The fault `nan`: not a number."""

from __future__ import annotations

import math

from fedwarm.core.arrays import Arrays
from fedwarm.faults import Spoilt, poked


class NotANumber(Spoilt):
    """The first number of the first float array is NaN."""

    def change(self, arrays: Arrays, reference: Arrays) -> Arrays | None:
        return poked(arrays, math.nan)


COMPONENT = NotANumber
