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
    last: tuple[tuple[int, int], ...] = ()
    while not ended.wait(seconds):
        try:
            changed = tuple(_version(folder / name) for name in (RESULTS, SIGNS))
            if changed != last:
                from fedwarm.report.page import make_report

                make_report([folder])
                last = changed
        except Exception:  # a file that is being written to; the next page has it
            continue


def _version(path: Path) -> tuple[int, int]:
    """Of a file that is replaced by each write: a clock may be too coarse to tell two of them apart."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return 0, 0
    return found.st_mtime_ns, found.st_ino
