"""A pool of worker processes for the local engine's clients.

A client is pinned: client i is answered by worker i mod W, whose memory keeps its context for the run. The parent hands a worker
one message at a time; so a worker that dies costs the reply it was at and the states its clients had there, and a fresh process
takes its place. Workers are forked where that is safe, so that they start at once and share what was imported (see `starting`);
those that take another's place are spawned.
"""

from __future__ import annotations

import multiprocessing
import pickle
import random
import threading
import time
import warnings
from collections import deque
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from flwr.app import Message, RecordDict

from fedwarm.core import progress
from fedwarm.core.stages import TOOK
from fedwarm.engines.local.desk import LOG, Clients, Job, crashed, expired, spoilt
from fedwarm.engines.local.starting import FORK, SPAWN, begin
from fedwarm.engines.local.worker_process import Start, work

GRACE_SECONDS = 3.0
KEPT_TICKS = 1000
_pools = count()


@dataclass(eq=False)
class _Worker:
    number: int
    process: BaseProcess
    connection: Connection
    job: Job | None = None
    begun: float = 0.0
    queue: deque[Job] = field(default_factory=deque)
    known: set[int] = field(default_factory=set)


class Pool:
    """Runs clients in `size` worker processes with `threads` threads each; `method` is "fork" or "spawn".

    A thread of this process hears the workers, so that they go on while the server computes. Ticks are passed on from `gather`
    and `pull`, to whoever listens there.
    """

    def __init__(self, clients: Clients, size: int, threads: int, method: str) -> None:
        self._clients, self._threads, self._number = clients, threads, next(_pools)
        self.width, self.cohort = size + 1, 0
        self._changed = threading.Condition()
        self._replies: dict[str, Message] = {}
        self._took: dict[str, float] = {}
        self._unwanted: set[str] = set()
        self._ticks: deque[progress.Tick] = deque(maxlen=KEPT_TICKS)
        self._pickled: tuple[RecordDict, bytes] | None = None
        self._failure: BaseException | None = None
        self._workers: list[_Worker] = []
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
        with self._changed:
            if drop and missing:
                self._withdraw(set(missing))
            for message_id in ids:
                self._took.pop(message_id, None)
            return [self._replies.pop(message_id) for message_id in ids if message_id in self._replies]

    def take(self, message_id: str, seconds: float) -> Message | None:
        """One reply; None where its client takes longer than `seconds`, counted from when its worker began with it.

        A worker that is still at a reply which was given up is replaced after twice that time, if others wait for it.
        """
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
            if worker.job is not None and worker.job.id == message_id:
                return worker.begun + seconds - time.monotonic()
            if any(job.id == message_id for job in worker.queue) and worker.job is not None and worker.job.id in self._unwanted:
                left = worker.begun + 2 * seconds - time.monotonic()
                if left <= 0:
                    LOG.warning("client %d does not end; its worker is replaced", worker.job.index)
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
            if worker.job is not None and waiting and worker.job.id in self._unwanted:
                LOG.warning("client %d did not end within a second time limit; its worker is replaced", worker.job.index)
                worker.process.kill()
            if worker.job is not None and worker.job.id in ids:
                self._unwanted.add(worker.job.id)

    def _start(self, number: int, method: str) -> _Worker:
        context: Any = multiprocessing.get_context(method)
        ours, theirs = context.Pipe()
        start = Start(number, self._threads)
        if method == FORK:
            others = (*(worker.connection for worker in self._workers), ours)
            start = Start(number, self._threads, others, (self._number, random.getstate()))
        process = context.Process(target=work, args=(theirs, self._clients, start), name=f"worker-{number}", daemon=False)
        begin(process, method)
        theirs.close()
        return _Worker(number, process, ours)

    def _hand_out(self, worker: _Worker) -> None:
        while worker.job is None and worker.queue:
            job = worker.queue.popleft()
            if refusal := expired(job.message):
                self._replies[job.id] = refusal
                self._changed.notify_all()
                continue
            worker.job, worker.begun = job, time.monotonic()
            worker.known.add(job.index)
            with suppress(OSError):
                self._send(worker, job)
        if not any(worker.queue for worker in self._workers):
            self._pickled = None

    def _send(self, worker: _Worker, job: Job) -> None:
        content = job.message.content
        if self._pickled is None or self._pickled[0] is not content:
            self._pickled = content, pickle.dumps(content, protocol=5)
        worker.connection.send(job.hollow())
        worker.connection.send_bytes(self._pickled[1])

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

    def _hear(self, worker: _Worker) -> None:
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
            elif isinstance(said, Exception) and worker.job is not None:
                self._settle(worker, spoilt(worker.job.message, said), repr(said))
            elif worker.job is not None:
                self._settle(worker, *said)
            self._changed.notify_all()

    def _settle(self, worker: _Worker, reply: Message, trace: str) -> None:
        job, worker.job = worker.job, None
        assert job is not None
        if trace:
            LOG.error("client %d failed:\n%s", job.index, trace)
        if job.id in self._unwanted:
            self._unwanted.remove(job.id)
        else:
            self._replies[job.id] = reply
            self._took[job.id] = time.monotonic() - worker.begun
        self._hand_out(worker)

    def _replace(self, worker: _Worker) -> None:
        worker.process.kill()
        worker.process.join()
        end = f"its worker process ended with exit code {worker.process.exitcode}"
        worker.process.close()
        worker.connection.close()
        if worker.known:
            LOG.warning("a worker died; what clients %s kept in their context is lost", sorted(worker.known))
        self._workers[worker.number] = successor = self._start(worker.number, SPAWN)
        successor.job, successor.begun, successor.queue = worker.job, worker.begun, worker.queue
        if successor.job is not None:
            self._settle(successor, crashed(successor.job.message, end), end)
        self._hand_out(successor)

    def _end_processes(self) -> None:
        for worker in self._workers:
            if worker.job is not None:
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
