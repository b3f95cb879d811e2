"""A pool of worker processes for the local engine's clients.

A client is pinned: client i is answered by worker i mod W, whose memory keeps its context for the run. The parent hands a worker
one message at a time, or a stack of clients that train together; so a worker that dies costs the replies it was at and the states
its clients had there, and a fresh process takes its place. Workers are forked where that is safe, so that they start at once and
share what was imported (`core.forking`); those that take another's place are spawned.
"""

from __future__ import annotations

import multiprocessing
import random
import threading
import time
import warnings
from collections import Counter, deque
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from multiprocessing.connection import wait
from typing import Any

from flwr.app import Message

from fedwarm.core import progress
from fedwarm.core.forking import FORK, SPAWN, begin
from fedwarm.core.stages import TOOK
from fedwarm.engines.local.desk import LOG, Clients, Job, crashed, expired, spoilt
from fedwarm.engines.local.worker import Pickled, Worker
from fedwarm.engines.local.worker_process import Start, work

GRACE_SECONDS = 3.0
KEPT_TICKS = 1000
_pools = count()


class Pool:
    """Runs clients in `size` worker processes with `threads` threads each; `method` is "fork" or "spawn".

    A thread of this process hears the workers, so that they go on while the server computes. Ticks are passed on from `gather`
    and `pull`, to whoever listens there. Where `cohort` is not 0, a worker has that many clients train together, and begins with
    fewer only where somebody waits for one of them.
    """

    def __init__(self, clients: Clients, size: int, threads: int, method: str, cohort: int = 0) -> None:
        self._clients, self._threads, self._number, self._waited = clients, threads, next(_pools), Counter[str]()
        self.width, self.cohort = 2 * size * cohort or size + 1, cohort
        self._changed = threading.Condition()
        self._replies: dict[str, Message] = {}
        self._took: dict[str, float] = {}
        self._unwanted: set[str] = set()
        self._ticks: deque[progress.Tick] = deque(maxlen=KEPT_TICKS)
        self._pickled: Pickled = {}
        self._failure: BaseException | None = None
        self._workers: list[Worker] = []
        try:
            for number in range(size):
                with warnings.catch_warnings():
                    warnings.filterwarnings("ignore", message=".*fork", category=DeprecationWarning)
                    self._workers.append(self._start(number, method))
        except BaseException:
            self._end_processes()
            raise
        self._stop_seen, self._stop = multiprocessing.Pipe(duplex=False)
        self._ear = threading.Thread(target=self._hear_all, name="fedwarm-workers", daemon=True)
        self._ear.start()

    def submit(self, jobs: Sequence[Job]) -> None:
        """Take messages in and start what can start."""
        with self._changed:
            for job in jobs:
                self._workers[job.index % len(self._workers)].queue.append(job)
            for worker in self._workers:
                self._hand_out(worker)

    def pull(self, ids: Sequence[str]) -> list[Message]:
        """The replies to these messages that are there, in the order of `ids`, without those taken before."""
        return self.gather(ids, time.monotonic(), drop=False)

    def gather(self, ids: Sequence[str], deadline: float | None, drop: bool = True) -> list[Message]:
        """The replies that are there at `deadline` (of `time.monotonic`), in the order of `ids`.

        With `drop`, clients not begun by then are not run, what late ones say is thrown away, and a worker that was late before
        and is still busy with it is replaced.
        """
        missing = deque(ids)
        with self._waiting(ids):
            self._gather(missing, deadline)
        with self._changed:
            if drop and missing:
                self._withdraw(set(missing))
            for message_id in ids:
                self._took.pop(message_id, None)
            return [self._replies.pop(message_id) for message_id in ids if message_id in self._replies]

    def _gather(self, missing: deque[str], deadline: float | None) -> None:
        """Wait until the deadline or until all are there, which are taken off."""

        def complete() -> bool:
            while missing and missing[0] in self._replies:
                missing.popleft()
            return not missing

        done = False
        while not done:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            with self._changed:
                self._changed.wait_for(lambda: complete() or bool(self._ticks) or self._failure is not None, left)
                done = complete() or left == 0.0
                ticks = [self._ticks.popleft() for _ in range(len(self._ticks))]
                if self._failure is not None:
                    raise RuntimeError("the pool of workers failed") from self._failure
            self._pass_on(ticks)

    @contextmanager
    def _waiting(self, ids: Sequence[str]) -> Iterator[None]:
        """Somebody waits for these: workers begin with them."""
        with self._changed:
            self._waited.update(ids)
            for worker in self._workers:
                self._hand_out(worker)
        try:
            yield
        finally:
            with self._changed:
                self._waited.subtract(ids)
                self._waited += Counter()

    def take(self, message_id: str, seconds: float) -> Message | None:
        """One reply; None where its client takes longer than `seconds`, counted from when its worker began with it.

        A worker that is still at a reply which was given up is replaced after twice that time, if others wait for it.
        """
        with self._waiting([message_id]):
            return self._taken(message_id, seconds)

    def _taken(self, message_id: str, seconds: float) -> Message | None:
        while True:
            with self._changed:
                if self._failure is not None:
                    raise RuntimeError("the pool of workers failed") from self._failure
                ticks = [self._ticks.popleft() for _ in range(len(self._ticks))]
                if message_id in self._replies:
                    reply = self._replies.pop(message_id)
                    took = self._took.pop(message_id, 0.0)
                    reply.__dict__[TOOK] = took
                    return reply if took <= seconds else None
                left = self._left(message_id, seconds)
                if left <= 0:
                    self._unwanted.add(message_id)
                    return None
                if not ticks:
                    self._changed.wait(left)
            self._pass_on(ticks)

    def _left(self, message_id: str, seconds: float) -> float:
        """Seconds until a reply that is not there is late, or until its worker must be looked at again."""
        for worker in self._workers:
            allowed = seconds * max(1, len(worker.jobs))
            if worker.at([message_id]):
                return worker.begun + allowed - time.monotonic()
            if worker.has([message_id]) and worker.at(self._unwanted):
                left = worker.begun + 2 * allowed - time.monotonic()
                if left <= 0:
                    LOG.warning("%s; its worker is replaced", worker.named("does not end"))
                    worker.process.kill()
                return max(left, 0.1)
        return seconds

    def close(self) -> None:
        """End all workers: idle ones by word, busy ones by force. Returns when they are gone.

        An interrupt may have struck where the lock is given back, so that the listening thread never ends: it is left alone.
        """
        self._stop.send(None)
        self._ear.join(GRACE_SECONDS)
        self._stop.close()
        self._stop_seen.close()
        self._end_processes()

    def _pass_on(self, ticks: Sequence[progress.Tick]) -> None:
        listener = progress.current()
        for tick in ticks:
            if listener is not None:
                listener(tick)

    def _withdraw(self, ids: Collection[str]) -> None:
        for worker in self._workers:
            waiting = [job for job in worker.queue if job.id in ids]
            worker.queue = deque(job for job in worker.queue if job.id not in ids)
            if waiting and worker.at(self._unwanted):
                LOG.warning("%s; its worker is replaced", worker.named("did not end within a second time limit"))
                worker.process.kill()
            self._unwanted.update(job.id for job in worker.jobs if job.id in ids)

    def _start(self, number: int, method: str) -> Worker:
        context: Any = multiprocessing.get_context(method)
        ours, theirs = context.Pipe()
        start = Start(number, self._threads, self.cohort)
        if method == FORK:
            others = (*(worker.connection for worker in self._workers), ours)
            start = Start(number, self._threads, self.cohort, others, (self._number, random.getstate()))
        process = context.Process(target=work, args=(theirs, self._clients, start), name=f"worker-{number}", daemon=False)
        begin(process, method)
        theirs.close()
        return Worker(number, process, ours)

    def _hand_out(self, worker: Worker) -> None:
        """Let an idle worker begin with what waits for it: a full stack, or one that somebody waits for."""
        while not worker.jobs and worker.queue and (jobs := worker.stack(self.cohort, self._waited)):
            for job in jobs:
                worker.queue.remove(job)
                if refusal := expired(job.message):
                    self._replies[job.id] = refusal
                    self._changed.notify_all()
            if not (jobs := [job for job in jobs if job.id not in self._replies]):
                continue
            worker.jobs, worker.begun = jobs, time.monotonic()
            worker.known.update(job.index for job in jobs)
            with suppress(OSError):
                worker.send(self._pickled)
        if not any(worker.queue for worker in self._workers):
            self._pickled.clear()

    def _hear_all(self) -> None:
        try:
            while True:
                speakers = {worker.connection: worker for worker in self._workers}
                ready = wait([self._stop_seen, *speakers])
                if self._stop_seen in ready:
                    return
                for connection in ready:
                    self._hear(speakers[connection])  # type: ignore[index]
        except BaseException as error:
            with self._changed:
                self._failure = error
                self._changed.notify_all()

    def _hear(self, worker: Worker) -> None:
        said: Any = None
        try:
            said = worker.connection.recv()
        except (EOFError, OSError):
            pass
        except Exception as error:
            said = error
        with self._changed:
            if said is None:
                self._replace(worker)
            elif isinstance(said, progress.Tick):
                self._ticks.append(said)
            elif isinstance(said, Exception):
                self._settle(worker, [(spoilt(job.message, said), repr(said)) for job in worker.jobs])
            elif worker.jobs:
                self._settle(worker, said)
            self._changed.notify_all()

    def _settle(self, worker: Worker, answers: Sequence[tuple[Message, str]]) -> None:
        jobs, worker.jobs = worker.jobs, []
        took = (time.monotonic() - worker.begun) / max(1, len(jobs))
        for job, (reply, trace) in zip(jobs, answers, strict=True):
            if trace:
                LOG.error("client %d failed:\n%s", job.index, trace)
            if job.id in self._unwanted:
                self._unwanted.remove(job.id)
            else:
                self._replies[job.id], self._took[job.id] = reply, took
        self._hand_out(worker)

    def _replace(self, worker: Worker) -> None:
        worker.process.kill()
        worker.process.join()
        end = f"its worker process ended with exit code {worker.process.exitcode}"
        worker.process.close()
        worker.connection.close()
        if worker.known:
            LOG.warning("a worker died; what clients %s kept in their context is lost", sorted(worker.known))
        self._workers[worker.number] = successor = self._start(worker.number, SPAWN)
        successor.jobs, successor.begun, successor.queue = worker.jobs, worker.begun, worker.queue
        self._settle(successor, [(crashed(job.message, end), end) for job in successor.jobs])

    def _end_processes(self) -> None:
        for worker in self._workers:
            if worker.jobs:
                worker.process.kill()
            with suppress(OSError):
                worker.connection.send(None)
            worker.connection.close()
        deadline = time.monotonic() + GRACE_SECONDS
        for worker in self._workers:
            worker.process.join(max(0.0, deadline - time.monotonic()))
            if worker.process.exitcode is None:
                worker.process.kill()
                worker.process.join()
            worker.process.close()
        self._workers.clear()
