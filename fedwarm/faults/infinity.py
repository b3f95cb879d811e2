"""The fault `infinity`: a number without end."""

from __future__ import annotations

import math

from fedwarm.core.arrays import Arrays
from fedwarm.faults import Spoilt, poked


class Infinity(Spoilt):
    """The first number of the first float array is infinite."""

    def change(self, arrays: Arrays, reference: Arrays) -> Arrays | None:
        return poked(arrays, math.inf)


COMPONENT = Infinity
