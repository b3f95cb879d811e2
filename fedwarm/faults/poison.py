"""The fault `poison`: an update turned round, which looks honest."""

from __future__ import annotations

from fedwarm.core.arrays import Arrays
from fedwarm.core.norms import along, floats
from fedwarm.faults import Spoilt


class Poison(Spoilt):
    """w - scale (w_k - w), with `faults.poison-scale`; it passes every check, and robust rules are there to stand it.

    A ranking is reversed instead.
    """

    refused, turns = False, True
    uses = ("faults.poison-scale",)

    def change(self, arrays: Arrays, reference: Arrays) -> Arrays | None:
        return along(arrays, reference, -self.faults.poison_scale) if floats(arrays) else None


COMPONENT = Poison
