"""Ctrl-C and a polite end (SIGTERM, SIGHUP) of a run: what was begun is cleared away, and one line says how to go on."""

from __future__ import annotations

import json
import shlex
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from fedwarm.core.failures import Interrupted
from fedwarm.record.checkpoint import FOLDER, INDEX
from fedwarm.record.folder import JOURNAL

POLITE = (signal.SIGTERM, signal.SIGHUP)


class _Ended(BaseException):
    """A signal came."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextmanager
def interruptible(message: Callable[[], str]) -> Iterator[None]:
    """Let the signals end the block by its `finally`s, and then by `Interrupted`; the first one counts, later polite ones wait.

    Signals that the caller handles or ignores stay as they are; outside the main thread only Ctrl-C's error is looked for.
    """
    taken: list[signal.Signals] = []
    if threading.current_thread() is threading.main_thread():
        taken = [each for each in POLITE if signal.getsignal(each) is signal.SIG_DFL]

    def leave(number: int, _: FrameType | None) -> None:
        for each in taken:
            signal.signal(each, signal.SIG_IGN)
        raise _Ended(number)

    for each in taken:
        signal.signal(each, leave)
    try:
        yield
    except KeyboardInterrupt as error:
        raise Interrupted(signal.SIGINT, message()) from error
    except (_Ended, Interrupted) as error:
        raise Interrupted(error.number, message()) from error
    finally:
        for each in taken:
            signal.signal(each, signal.SIG_DFL)


def command(place: Path, options: str) -> str:
    """What goes on with the run in a folder; `options` choose its engine."""
    return f"fedwarm run --resume --out {shlex.quote(str(place))}{options}"


def how_to_go_on(place: Path, options: str) -> str:
    """How far the run in a folder came, and what goes on with it."""
    stages = _stages(place)
    if stages is None:
        after = "before its first checkpoint"
    else:
        last = stages[-1] if stages else None
        after = f"after stage {len(stages)} ({last['name']}, round {last['round']})" if last else "in its first stage"
    return f"interrupted {after}; {_next(place, options, stages is not None)}"


def next_step(place: Path, options: str) -> str:
    """What goes on with the run in a folder: its checkpoint, or where it has none, the command that began it."""
    return _next(place, options, _stages(place) is not None)


def _next(place: Path, options: str, kept: bool) -> str:
    if kept:
        return f"continue with: {command(place, options)}"
    return f"give the same command again{' with --fresh' if (place / 'results.json').exists() else ''}"


def _stages(place: Path) -> list[dict[str, Any]] | None:
    """The stages that the checkpoint in a folder has behind it; None where there is no checkpoint."""
    try:
        index = json.loads((place / FOLDER / INDEX).read_text(encoding="utf-8"))
        lines = (place / JOURNAL).read_bytes()[: index["lengths"][JOURNAL]].decode().splitlines()
        return [event["stage"] for event in map(json.loads, lines) if "stage" in event]
    except (OSError, ValueError, KeyError, TypeError):
        return None
