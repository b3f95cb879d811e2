"""Whose processes are whose: a family is known by descent, and by a mark in the environment that all descendants inherit.

Flower's daemons start processes in sessions of their own, which outlive them for a while, and Ray starts more below those.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterable

import psutil  # type: ignore[import-untyped]

MARK = "FEDWARM_FAMILY"
POLL_SECONDS = 0.1
KILL_ROUNDS = 100


def lives(process: psutil.Process) -> bool:
    """Whether it runs still; one that ended and waits for its parent does not."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def family(heads: Iterable[psutil.Process], marks: Iterable[str]) -> list[psutil.Process]:
    """The living among some processes, their descendants, and all processes that carry one of the marks."""
    found: dict[int, psutil.Process] = {}
    for head in heads:
        with contextlib.suppress(psutil.Error):
            if head.is_running():
                found |= {each.pid: each for each in [head, *head.children(recursive=True)]}
    wanted = set(marks)
    for each in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if each.pid != os.getpid() and each.environ().get(MARK) in wanted:
                found[each.pid] = each
    return [each for each in found.values() if lives(each)]


def end_family(
    heads: Iterable[psutil.Process], marks: Iterable[str], grace_seconds: float, reap: Callable[[], object] = lambda: None
) -> None:
    """Ask processes and their family to end, and kill what has not ended after the grace (or a second Ctrl-C).

    Args:
        heads: processes of ours.
        marks: what their families carry.
        grace_seconds: how long they may take by themselves.
        reap: called while they end, so that children of this process do not stay as zombies.
    """
    heads, marks = list(heads), list(marks)
    members = family(heads, marks)
    try:
        _signal(members, signal.SIGTERM)
        end = time.monotonic() + grace_seconds
        while any(map(lives, members)) and time.monotonic() < end:
            reap()
            time.sleep(POLL_SECONDS)
    finally:
        for _ in range(KILL_ROUNDS):
            reap()
            left = {*filter(lives, members), *family(heads, marks)}
            if not left:
                break
            _signal(left, signal.SIGKILL)
            time.sleep(POLL_SECONDS)


def _signal(processes: Iterable[psutil.Process], number: signal.Signals) -> None:
    for each in processes:
        with contextlib.suppress(psutil.Error):
            each.send_signal(number)
