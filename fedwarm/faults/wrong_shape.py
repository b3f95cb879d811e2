"""The fault `wrong_shape`: one dimension too many."""

from __future__ import annotations

import numpy as np

from fedwarm.core.arrays import Arrays
from fedwarm.faults import Spoilt, with_changed


class WrongShape(Spoilt):
    """The first array has a dimension of size 1 before its own."""

    def change(self, arrays: Arrays, reference: Arrays) -> Arrays | None:
        return with_changed(arrays, next(iter(arrays), None), lambda array: array[np.newaxis])


COMPONENT = WrongShape
