"""How long a SuperNode waits before it asks again.

Flower's loop looks every half second whether a message has been answered, and asks every three seconds whether there is another:
of a small round's time that is the most. Here the first wait of its kind is an eighth of Flower's, and each further one twice as
long until it is Flower's: a node at work asks two or three times more in a round, of 1.3 kB each, and one without work as ever.
"""

from __future__ import annotations

import time
from importlib import import_module
from typing import Any

LOOP, FIRST, LAST = "flwr.supernode.start_client_internal", 1 / 8, 3


class Pace:
    """Stands for the module `time` in Flower's loop."""

    def __init__(self) -> None:
        self._seconds, self._row = 0.0, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)

    def sleep(self, seconds: float) -> None:
        """Wait for so long at most; each wait of another length than the last begins anew."""
        self._row = min(self._row + 1, LAST) if seconds == self._seconds else 0
        self._seconds = seconds
        time.sleep(min(seconds, seconds * FIRST * 2**self._row))


def install() -> bool:
    """Have this process's SuperNode wait so; whether this version of Flower has the place for it."""
    try:
        loop = import_module(LOOP)
    except ImportError:
        return False
    if getattr(loop, "time", None) is time:
        vars(loop).update(time=Pace())
    return isinstance(getattr(loop, "time", None), Pace)
