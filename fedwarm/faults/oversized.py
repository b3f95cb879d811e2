"""The fault `oversized`: a reply of many times the bytes."""

from __future__ import annotations

import numpy as np

from fedwarm.core.arrays import Arrays
from fedwarm.faults import EXTRA, Spoilt

OVERSIZE = 10
OVERSIZE_AT_LEAST_BYTES = 2**20


class Oversized(Spoilt):
    """There is one array more, ten times as large as all others together and at least 1 MiB."""

    def change(self, arrays: Arrays, reference: Arrays) -> Arrays | None:
        size_bytes = max(OVERSIZE_AT_LEAST_BYTES, OVERSIZE * sum(array.nbytes for array in arrays.values()))
        return {**arrays, EXTRA: np.zeros(size_bytes, np.uint8)}


COMPONENT = Oversized
