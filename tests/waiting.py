"""Waiting for what other processes do, for tests: bounded, and by looking often."""

from __future__ import annotations

import time
from collections.abc import Callable


def wait_until(check: Callable[[], bool], seconds: float, poll_seconds: float = 0.1) -> None:
    """Return when `check` holds; fail where it did not in time."""
    end = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < end
        time.sleep(poll_seconds)
