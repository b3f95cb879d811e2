"""The fault `wrong_dtype`: numbers of another type."""

from __future__ import annotations

import numpy as np

from fedwarm.core.arrays import Arrays
from fedwarm.faults import Numbers, Spoilt, first_float, with_changed


class WrongDtype(Spoilt):
    """The first float array is of float64, or of float32 where that is its own type."""

    def change(self, arrays: Arrays, reference: Arrays) -> Arrays | None:
        return with_changed(arrays, first_float(arrays), _other)


def _other(array: Numbers) -> Numbers:
    return array.astype(np.float32 if array.dtype == np.float64 else np.float64)


COMPONENT = WrongDtype
