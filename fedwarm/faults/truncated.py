"""The fault `truncated`: an array that is cut short on its way."""

from __future__ import annotations

from fedwarm.faults import Fault


class Truncated(Fault):
    """The first array has the first half of its bytes."""

    def garble(self, data: bytes) -> bytes:
        return data[: len(data) // 2]


COMPONENT = Truncated
