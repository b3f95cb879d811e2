"""The fault `extra_key`: one array too many."""

from __future__ import annotations

import numpy as np

from fedwarm.core.arrays import Arrays
from fedwarm.faults import EXTRA, Spoilt


class ExtraKey(Spoilt):
    """There is one array more, of one number."""

    def change(self, arrays: Arrays, reference: Arrays) -> Arrays | None:
        return {**arrays, EXTRA: np.zeros(1, np.float32)}


COMPONENT = ExtraKey
