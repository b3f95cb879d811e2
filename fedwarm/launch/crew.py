"""Several runs at once, each in a process of its own with its share of the cores.

What a run says goes to a file of its own, so that lines of several do not mix. A process does one run after the other; one that
dies costs the run that it was at, which goes on from its checkpoint when it is tried again.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from fedwarm.core.capacity import THREAD_VARIABLES, threads_of
from fedwarm.core.failures import Interrupted
from fedwarm.core.files import writing
from fedwarm.core.forking import SPAWN, end_with_parent
from fedwarm.launch.request import Request
from fedwarm.launch.several import run_one
from fedwarm.launch.sweep_file import Job
from fedwarm.settings.fields import SettingError

LOGS = "logs"
GRACE_SECONDS = 30.0
WAIT_IDLY = {"OMP_WAIT_POLICY": "PASSIVE"}
"""A server has as many threads as its run's setting says: where they are more than the cores, those that wait must not spin."""


def refuse_jobs(jobs: int, engine: str, real: bool) -> None:
    """Refuse several runs at once where they cannot be.

    Raises:
        SettingError: the runs are of one federation of real nodes, which does one after the other.
    """
    if jobs > 1 and real:
        raise SettingError(f"--jobs {jobs} cannot be used with --engine {engine}: a federation does one run after the other")


@dataclass(frozen=True)
class Ended:
    """A run that ended: the line that it failed with, empty if it did not, and how long it took."""

    job: Job
    line: str
    seconds: float


@dataclass(eq=False)
class _Hand:
    """A process, and the run that it is at since `begun`."""

    process: BaseProcess
    connection: Connection
    job: Job | None = None
    begun: float = 0.0


class Crew:
    """Processes that run what they are given; they are started when they are wanted."""

    def __init__(self, size: int, folder: Path, common: Request, fresh: bool) -> None:
        self.size, self._folder, self._fresh = size, folder, fresh
        self._threads = threads_of(size)
        self._common = replace(common, workers=common.workers or self._threads, progress=False)
        self._hands: list[_Hand] = []

    @property
    def at(self) -> Mapping[str, float]:
        """The names of the runs that are under way, each with the seconds that it took so far."""
        return {hand.job.name: time.monotonic() - hand.begun for hand in self._hands if hand.job is not None}

    def work(self, ready: Callable[[], Sequence[Job]], begins: Callable[[Job], None]) -> Iterator[Ended]:
        """Run what can be run, first things first, until nothing is left; each run as it ends.

        Args:
            ready: the runs that lack nothing but to be run, those under way among them or not; asked again after each end.
            begins: told before each run.
        """
        while True:
            waiting = [job for job in ready() if job.name not in self.at]
            for job in waiting[: self.size - len(self.at)]:
                begins(job)
                self._begin(job)
            if not self.at:
                return
            speaking = wait([hand.connection for hand in self._hands if hand.job is not None])
            for hand in [hand for hand in self._hands if hand.connection in speaking]:
                yield self._heard(hand)

    def log(self, job: Job) -> Path:
        """The file of what a run says."""
        return self._folder / LOGS / f"{job.name}.log"

    def close(self) -> None:
        """End all processes: idle ones by word, the others by a signal, so that each clears away what it began."""
        for hand in self._hands:
            with suppress(OSError):
                hand.connection.send(None)
            if hand.job is not None:
                hand.process.terminate()
        until = time.monotonic() + GRACE_SECONDS
        for hand in self._hands:
            self._bury(hand, until - time.monotonic())
        self._hands.clear()

    def _begin(self, job: Job) -> None:
        hand = next((hand for hand in self._hands if hand.job is None), None) or self._another()
        with writing(log := self.log(job)):
            log.parent.mkdir(parents=True, exist_ok=True)
        hand.job, hand.begun = job, time.monotonic()
        with suppress(OSError):  # that it is gone is heard
            hand.connection.send((job, self._folder / job.name, log))

    def _another(self) -> _Hand:
        context: Any = multiprocessing.get_context(SPAWN)
        ours, theirs = context.Pipe()
        process = context.Process(target=_run_what_comes, args=(theirs, self._common, self._fresh), daemon=False)
        with _environment(WAIT_IDLY | os.environ | dict.fromkeys(THREAD_VARIABLES, str(self._threads))):
            process.start()
        theirs.close()
        self._hands.append(hand := _Hand(process, ours))
        return hand

    def _heard(self, hand: _Hand) -> Ended:
        assert hand.job is not None
        job, hand.job = hand.job, None
        try:
            line = str(hand.connection.recv())
        except (EOFError, OSError):
            line = f"its process ended with exit code {self._bury(hand)}; if memory was short, ask for fewer --jobs"
            self._hands.remove(hand)
        return Ended(job, line and f"{line} (all that it said: {self.log(job)})", time.monotonic() - hand.begun)

    def _bury(self, hand: _Hand, seconds: float = GRACE_SECONDS) -> int | None:
        """Its exit code, when it is gone: by itself within these seconds, else by force."""
        hand.process.join(max(0.0, seconds))
        if hand.process.is_alive():
            hand.process.kill()
        hand.process.join()
        code = hand.process.exitcode
        hand.process.close()
        hand.connection.close()
        return code


@contextmanager
def crew(size: int, folder: Path, common: Request, fresh: bool) -> Iterator[Crew]:
    """So many runs at once in this block, in the folders of their names in `folder`; at its end no process is left."""
    found = Crew(size, folder, common, fresh)
    try:
        yield found
    finally:
        found.close()


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """In this block these variables are so: a library of the process that is started reads them before any of our code runs."""
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        for name in values:
            if name in before:
                os.environ[name] = before[name]
            else:
                del os.environ[name]


def _run_what_comes(connection: Connection, common: Request, fresh: bool) -> None:
    """A process of the crew, until it is told None. Ctrl-C is its starter's to hear, who ends it by a signal."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
    with suppress(EOFError, OSError, Interrupted):
        while (given := connection.recv()) is not None:
            job, place, log = given
            descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            for stream in (1, 2):
                os.dup2(descriptor, stream)
            os.close(descriptor)
            connection.send(run_one(job, place, common, fresh))
