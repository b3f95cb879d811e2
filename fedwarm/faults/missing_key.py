"""The fault `missing_key`: one array too few."""

from __future__ import annotations

from fedwarm.core.arrays import Arrays
from fedwarm.faults import Spoilt


class MissingKey(Spoilt):
    """The last array is missing."""

    def change(self, arrays: Arrays, reference: Arrays) -> Arrays | None:
        return {name: arrays[name] for name in list(arrays)[:-1]} if arrays else None


COMPONENT = MissingKey
