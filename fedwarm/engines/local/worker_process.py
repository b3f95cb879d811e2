"""A worker process of the local engine: what runs at the other end of a pool's pipe.

Down the pipe come jobs with empty messages, each with the number of its content, then the pickled contents; None ends the worker.
Up go ticks, and a reply for each of the jobs with the traceback of what went wrong, empty where nothing did.
"""

from __future__ import annotations

import gc
import os
import pickle
import random
import sys
import threading
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from flwr.app import RecordDict

from fedwarm.core import forking, logs, placement, progress, terminal
from fedwarm.core.capacity import THREAD_VARIABLES
from fedwarm.engines.local.desk import Clients, Desk, Job, identify, spoilt, trains

LARGE_BYTES = 2**22


@dataclass(frozen=True)
class Start:
    """How worker `number` begins. A forked one also gets the open pipes to close, its pool's number and the state of `random`.

    `cohort`: how many clients train together; 0: none.
    """

    number: int
    threads: int
    cohort: int = 0
    inherited: tuple[Connection, ...] = ()
    fork: tuple[int, tuple[Any, ...]] | None = None


class Line:
    """A worker's end of its pipe; what other threads or processes of the client say does not mix into a reply."""

    def __init__(self, connection: Connection) -> None:
        self._connection, self._process, self._lock = connection, os.getpid(), threading.Lock()

    def tick(self, tick: progress.Tick) -> None:
        if os.getpid() == self._process:
            self.send(pickle.dumps(tick))

    def send(self, data: bytes) -> None:
        with self._lock:
            self._connection.send_bytes(data)


def work(connection: Connection, clients: Clients, start: Start) -> None:
    """A worker process: answers until it is told None or its parent is gone."""
    for other in start.inherited:
        other.close()
    forking.leave_signals_to_parent()
    forking.end_with_parent()
    logs.undisplayed()
    terminal.prepare()
    logs.settle()
    if start.fork is not None:
        _part_ways(start.number, *start.fork)
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(start.threads)))
    placement.settle(start.number)
    desk, line = Desk(clients), Line(connection)
    with suppress(Exception):
        _ = desk.app
    _limit_threads(start.threads)
    gc.freeze()
    with suppress(EOFError, OSError):
        while (given := connection.recv()) is not None:
            jobs, numbers = [job for job, _ in given], [number for _, number in given]
            identify(clients.run_id, clients.node_ids[jobs[0].index])
            size_bytes = _filled(connection, jobs, numbers)
            answer = _pickled_answers(desk, jobs, start.cohort, line)
            for job in jobs:
                job.message.content = RecordDict()
            line.send(answer)
            if max(size_bytes, len(answer)) > LARGE_BYTES:  # records refer to themselves: large ones are collected at once
                del answer
                gc.collect()


def _filled(connection: Connection, jobs: Sequence[Job], numbers: Sequence[int]) -> int:
    """Give the messages their contents, which come by their numbers; bytes of all."""
    contents, size_bytes = [], 0
    for _ in range(max(numbers) + 1):
        content = connection.recv_bytes()
        size_bytes += len(content)
        contents.append(pickle.loads(content))
        del content
    for job, number in zip(jobs, numbers, strict=True):
        job.message.content = contents[number]
    return size_bytes


def _pickled_answers(desk: Desk, jobs: Sequence[Job], cohort: int, line: Line) -> bytes:
    try:
        if cohort and trains(jobs[0]):
            return pickle.dumps(desk.together(jobs, cohort, line.tick), protocol=5)
        return pickle.dumps([desk.answer(job.index, job.message, line.tick) for job in jobs], protocol=5)
    except Exception as error:
        return pickle.dumps([(spoilt(job.message, error), traceback.format_exc()) for job in jobs], protocol=5)


def _part_ways(number: int, pool: int, randomness: tuple[Any, ...]) -> None:
    """Give a forked worker random streams of its own: it would go on with its parent's, and so would all its siblings.

    They derive from the parent's: repeatable where the app seeds them at import, unpredictable where it does not.
    """
    random.setstate(randomness)
    random.seed(f"{random.getrandbits(256)}/{pool}/{number}")
    inherited = np.random.randint(0, 2**32, size=8, dtype=np.uint32)
    np.random.seed([*inherited.tolist(), pool, number])
    if torch := sys.modules.get("torch"):
        torch.manual_seed(int(np.random.SeedSequence([torch.initial_seed(), pool, number]).generate_state(1, np.uint64)[0]))


def _limit_threads(threads: int) -> None:
    with suppress(ImportError):
        import_module("threadpoolctl").threadpool_limits(threads)
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(threads)
