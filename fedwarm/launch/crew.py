"""Several runs at once, each in a process of its own with its share of the cores.

What a run says goes to a file of its own, so that lines of several do not mix. A process does one run after the other; one that
dies costs the run that it was at, which goes on from its checkpoint when it is tried again.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from traceback import format_exc
from typing import Any

from fedwarm.core.capacity import CORES_VARIABLE, THREAD_VARIABLES, cores
from fedwarm.core.failures import Interrupted, RunError
from fedwarm.core.files import DiskError, writing
from fedwarm.core.forking import SPAWN, end_with_parent
from fedwarm.core.forms import second_text
from fedwarm.core.surroundings import surroundings
from fedwarm.core.terminal import say
from fedwarm.launch.request import Request
from fedwarm.launch.several import line_of, run_one
from fedwarm.launch.sweep_file import Job
from fedwarm.settings.fields import SettingError

LOGS = "logs"
GRACE_SECONDS = 30.0
WAIT_IDLY = {"OMP_WAIT_POLICY": "PASSIVE"}
"""A server has as many threads as its run's setting says: where they are more than the cores, those that wait must not spin."""


def refuse_jobs(jobs: int, engine: str, real: bool, runs: Iterable[Job]) -> None:
    """Refuse several runs at once where they cannot be.

    Raises:
        SettingError: a federation of real nodes does one after the other, or all keep their clients' states in one folder.
    """
    if jobs > 1 and real:
        raise SettingError(
            f"--jobs {jobs} cannot be used with --engine {engine}, as a federation does one run after the other; leave --jobs out"
        )
    if jobs > 1 and any(job.flat.get("client-folder") for job in runs):
        raise SettingError(
            f"--jobs {jobs} cannot be used with client-folder, where a run removes what others keep; leave one of them out"
        )


@dataclass(frozen=True)
class Ended:
    """A run that ended: the line that it failed with, empty if it did not, how long it took, and the file of all that it said."""

    job: Job
    line: str
    seconds: float
    log: Path

    @property
    def told(self) -> str:
        """How it ended, in words."""
        return f"failed: {self.line} (all that it said: {self.log})" if self.line else second_text(self.seconds)


@dataclass(eq=False)
class _Hand:
    """A process, and the run that it is at since `begun`."""

    process: BaseProcess
    connection: Connection
    job: Job | None = None
    begun: float = 0.0


class Crew:
    """So many processes, started when they are wanted, that do runs in folders of their names in `folder`, until it is closed."""

    def __init__(self, size: int, folder: Path, common: Request, fresh: bool) -> None:
        self.size, self._folder, self._fresh = size, folder, fresh
        self._common = replace(common, progress=False)
        self._hands: list[_Hand] = []

    @property
    def at(self) -> set[str]:
        """The names of the runs that are under way."""
        return {hand.job.name for hand in self._hands if hand.job is not None}

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
        """Give the run to a process that is idle and alive, or to a new one."""
        given = (job, self._folder / job.name, self._log(job))
        while True:
            hand = next((hand for hand in self._hands if hand.job is None), None) or self._another()
            try:
                hand.connection.send(given)
            except OSError:  # it died while it was idle
                self._bury(hand)
                self._hands.remove(hand)
            else:
                hand.job, hand.begun = job, time.monotonic()
                return

    def _log(self, job: Job) -> Path:
        return self._folder / LOGS / f"{job.name}.log"

    def _another(self) -> _Hand:
        context: Any = multiprocessing.get_context(SPAWN)
        ours, theirs = context.Pipe()
        process = context.Process(target=_run_what_comes, args=(theirs, self._common, self._fresh), daemon=False)
        try:
            with surroundings(_share(self.size)):  # libraries read it before any of our code runs there
                process.start()
        except OSError as error:
            raise RunError(f"no process could be started for a run: {error.strerror}; ask for fewer --jobs") from error
        theirs.close()
        self._hands.append(hand := _Hand(process, ours))
        return hand

    def _heard(self, hand: _Hand) -> Ended:
        assert hand.job is not None
        job, hand.job = hand.job, None
        try:
            line, trace = hand.connection.recv()
        except (EOFError, OSError):
            code, trace = self._bury(hand), ""
            line = f"its process ended with exit code {code}"
            if code < 0:
                line = f"its process was killed (signal {-code}); if memory was short, ask for fewer --jobs"
            self._hands.remove(hand)
        if trace:
            say(trace)
        return Ended(job, line, time.monotonic() - hand.begun, self._log(job))

    def _bury(self, hand: _Hand, seconds: float = GRACE_SECONDS) -> int:
        """Its exit code, when it is gone: by itself within these seconds, else by force."""
        hand.process.join(max(0.0, seconds))
        if hand.process.is_alive():
            hand.process.kill()
        hand.process.join()
        code = hand.process.exitcode or 0
        hand.process.close()
        hand.connection.close()
        return code


def _share(size: int) -> dict[str, str]:
    """What the environment of one of so many processes says of its share of the cores."""
    each = max(1, cores() // size)
    told = {name: os.environ.get(name, "") for name in THREAD_VARIABLES}
    threads = {name: str(min(each, int(text)) if text.isdigit() else each) for name, text in told.items()}
    waits = {name: os.environ.get(name, usual) for name, usual in WAIT_IDLY.items()}
    return {**waits, **threads, CORES_VARIABLE: str(each)}


def _run_what_comes(connection: Connection, common: Request, fresh: bool) -> None:
    """A process of the crew, until it is told None. Ctrl-C is its starter's to hear, who ends it by a signal."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
    try:
        while (given := _received(connection)) is not None:
            connection.send(_ran(*given, common, fresh))
    except Interrupted as error:
        sys.exit(error.code)


def _received(connection: Connection) -> tuple[Job, Path, Path] | None:
    try:
        return connection.recv()  # type: ignore[no-any-return]
    except (EOFError, OSError):
        return None


def _ran(job: Job, place: Path, log: Path, common: Request, fresh: bool) -> tuple[str, str]:
    """What a run failed with in one line, empty if it did not, and where, for whoever looks for that (`FEDWARM_DEBUG`)."""
    try:
        with writing(log):
            log.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        for stream in (1, 2):
            os.dup2(descriptor, stream)
        os.close(descriptor)
        return run_one(job, place, common, fresh), ""
    except Exception as error:
        return line_of(error), "" if isinstance(error, DiskError) else format_exc()
