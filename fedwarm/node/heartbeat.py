"""The last heartbeat that the SuperLink accepted, written by the SuperNode's process for whoever asks on the same machine.

Whether a node is heard stands nowhere else: its port answers 200 at all times. The file is locked while the process lives, so
that what an ended one left says nothing; its time is that of a clock which nobody sets and which goes on in a machine's sleep.
A health check asks every few seconds: this file needs the standard library alone, and `python -m fedwarm.node.heartbeat` is
the least that it costs.
"""

from __future__ import annotations

import fcntl
import os
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

WITHIN_SECONDS = 90.0
"""Heartbeats go out every 18 to 22 seconds, and the SuperLink counts a node as offline after 60 without one."""
VARIABLE = "FLWR_HOME"
LOCK_TRIES, LOCK_SECONDS = 20, 0.05
CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def place(home: str | Path | None = None) -> Path:
    """The file of the SuperNode whose FLWR_HOME this is; default: this process's own."""
    told = home or os.environ.get(VARIABLE)
    return (Path(told) if told else Path.home() / ".flwr") / "heartbeat"


class Pulse:
    """Held by a SuperNode's process as long as it lives.

    Args:
        path: the file.

    Raises:
        OSError: it cannot be written, or (BlockingIOError) another process holds it.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            self._lock()
            os.ftruncate(self._file, 0)
        except OSError:
            os.close(self._file)
            raise

    def _lock(self) -> None:
        """Whoever asks holds the lock for a moment, too."""
        for tries in range(LOCK_TRIES):
            try:
                return fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if tries + 1 == LOCK_TRIES:
                    raise
            time.sleep(LOCK_SECONDS)

    def beat(self) -> None:
        """A heartbeat was accepted now."""
        os.pwrite(self._file, f"{time.clock_gettime(CLOCK):20.3f}\n".encode(), 0)

    def close(self) -> None:
        """Hold the file no longer."""
        os.close(self._file)


class Sign(NamedTuple):
    """What a file says: whether a SuperNode runs, and for how many seconds it was not heard (None: it never was)."""

    runs: bool
    seconds: float | None

    def alive(self, within: float) -> bool:
        """Whether the SuperLink accepted a heartbeat within so many seconds."""
        return self.runs and self.seconds is not None and self.seconds <= within

    def told(self, within: float) -> str:
        """In words."""
        if not self.runs:
            return "no SuperNode that was started by `fedwarm node run` runs with this FLWR_HOME"
        if self.seconds is None:
            return "the SuperLink has accepted no heartbeat of this node yet"
        late = "" if self.alive(within) else f", which is more than {within:g} s"
        return f"the SuperLink accepted this node's last heartbeat {self.seconds:.0f} s ago{late}"


def look(path: Path) -> Sign:
    """Read a SuperNode's file."""
    try:
        file = os.open(path, os.O_RDONLY)
    except OSError:
        return Sign(False, None)
    try:
        runs, text = _held(file), os.pread(file, 64, 0)
    finally:
        os.close(file)
    seconds = None
    with suppress(ValueError):
        seconds = max(0.0, time.clock_gettime(CLOCK) - float(text))
    return Sign(runs, seconds)


def _held(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False


if __name__ == "__main__":
    sign = look(place())
    print(sign.told(WITHIN_SECONDS))
    sys.exit(0 if sign.alive(WITHIN_SECONDS) else 1)
