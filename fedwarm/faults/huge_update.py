"""The fault `huge_update`: an update that is far too long."""

from __future__ import annotations

from fedwarm.core.arrays import Arrays
from fedwarm.core.norms import along, floats
from fedwarm.faults import Spoilt


class HugeUpdate(Spoilt):
    """w + scale (w_k - w), with `faults.scale`."""

    uses = ("faults.scale",)

    def change(self, arrays: Arrays, reference: Arrays) -> Arrays | None:
        return along(arrays, reference, self.faults.scale) if floats(arrays) else None


COMPONENT = HugeUpdate
