"""The clock of all waiting for nodes, in one place: `now`, `sleep`, and how often a line says what is waited for."""

from __future__ import annotations

import logging
import time

LINE_SECONDS = 30.0
POLL_SECONDS = 0.25


def now() -> float:
    """Seconds of a clock that only goes forward."""
    return time.monotonic()


def sleep(seconds: float) -> None:
    """Let time pass."""
    time.sleep(seconds)


def say(text: str) -> None:
    """A line in the run's log."""
    logging.getLogger("flwr").info(text)
