"""A worker process as its pool knows it: what it is at, and what waits for it."""

from __future__ import annotations

import pickle
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass, field
from itertools import islice
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

from flwr.app import RecordDict

from fedwarm.engines.local.desk import Job, trains

Pickled = dict[int, tuple[RecordDict, bytes]]


@dataclass(eq=False)
class Worker:
    """A worker.

    Attributes:
        jobs: what it is at since `begun`.
        queue: what waits for it.
        known: clients that it has answered for.
    """

    number: int
    process: BaseProcess
    connection: Connection
    jobs: list[Job] = field(default_factory=list)
    begun: float = 0.0
    queue: deque[Job] = field(default_factory=deque)
    known: set[int] = field(default_factory=set)

    def at(self, ids: Collection[str]) -> bool:
        """Whether it is at one of these messages."""
        return any(job.id in ids for job in self.jobs)

    def has(self, ids: Collection[str]) -> bool:
        """Whether one of these messages waits for it."""
        return any(job.id in ids for job in self.queue)

    def stack(self, cohort: int, waited: Collection[str]) -> list[Job]:
        """The first that waits, or `cohort` that train together with it: fewer only where somebody waits for one of them."""
        if not cohort or not trains(self.queue[0]):
            return [self.queue[0]]
        alike = list(islice(filter(trains, self.queue), cohort))
        return alike if len(alike) == cohort or self.has(waited) else []

    def send(self, pickled: Pickled) -> None:
        """Its jobs without content, each with its content's number, then the contents; `pickled` keeps the last of them.

        Raises:
            OSError: it is gone.
        """
        contents = {id(job.message.content): job.message.content for job in self.jobs}
        numbers = {key: number for number, key in enumerate(contents)}
        self.connection.send([(job.hollow(), numbers[id(job.message.content)]) for job in self.jobs])
        for key, content in contents.items():
            if pickled.get(key, (None,))[0] is not content:
                pickled.clear()
                pickled[key] = content, pickle.dumps(content, protocol=5)
            self.connection.send_bytes(pickled[key][1])

    def named(self, what: str) -> str:
        """What its clients do, in words."""
        numbers = ", ".join(str(job.index) for job in self.jobs)
        return f"client {numbers} {what}" if len(self.jobs) == 1 else f"one of clients {numbers}, which train together, {what}"
