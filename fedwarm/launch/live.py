"""The report of a run that goes on: rebuilt now and then, beside the run."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedwarm.record.signs import FILE as SIGNS

REBUILT_SECONDS = 60.0
RESULTS = "results.json"


@contextmanager
def rebuilt(folder: Path, wanted: bool, seconds: float = REBUILT_SECONDS) -> Iterator[None]:
    """Within, the page in a run's folder is written anew every so often, if something has happened; nothing fails because of it.

    Args:
        folder: the run's.
        wanted: whether it is.
        seconds: between two pages.
    """
    if not wanted:
        yield
        return
    ended = threading.Event()
    thread = threading.Thread(target=_rebuild, args=(folder, ended, seconds), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _rebuild(folder: Path, ended: threading.Event, seconds: float) -> None:
    last = 0, 0
    while not ended.wait(seconds):
        try:
            signs = folder / SIGNS
            changed = (folder / RESULTS).stat().st_mtime_ns, signs.stat().st_mtime_ns if signs.exists() else 0
            if changed != last:
                from fedwarm.report.page import make_report

                make_report([folder])
                last = changed
        except Exception:  # a file that is being written to; the next page has it
            continue
