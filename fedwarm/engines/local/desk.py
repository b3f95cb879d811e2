"""Who answers for the local engine's clients, in one process: messages in, replies or errors out, every client's context kept.

Flower's codes of errors and its note of who a process is stand in modules of its own that nothing public replaces:
`ErrorCode` and `TaskIdentity` are taken from there, here only.
"""

from __future__ import annotations

import copy
import logging
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import dropwhile
from pathlib import Path

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, MessageType, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode
from flwr.supercore.task_identity import TaskIdentity

from fedwarm.core import meeting, progress
from fedwarm.core.stages import TOOK
from fedwarm.flower.app import load
from fedwarm.settings.fields import SettingError, Value

LOG = logging.getLogger("fedwarm")


def fresh(message: Message, content: RecordDict | None = None) -> Message:
    """The message with metadata and records of its own; `content`, where given, takes the place of the records.

    Arrays share their bytes, which nothing can change; what an array has cached (views that cannot be pickled) is left out.
    """
    twin = copy.copy(message)
    twin.__dict__["_metadata"] = copy.copy(message.metadata)
    if message.has_content():
        twin.content = copied(message.content) if content is None else content
    return twin


def copied(content: RecordDict) -> RecordDict:
    """The same records in containers of their own."""
    return RecordDict({name: _copied_record(record) for name, record in content.items()})


def _copied_record(record: ArrayRecord | ConfigRecord | MetricRecord) -> ArrayRecord | ConfigRecord | MetricRecord:
    """A record with values of its own; they were checked when the record was made, and are not checked again."""
    twin = record.copy()
    if isinstance(record, ArrayRecord):
        own: dict[str, object] = {name: _bare(array) for name, array in record.__dict__["_data"].items()}
    else:
        values = record.__dict__["_data"].items()
        own = {name: value.copy() if isinstance(value, list) else value for name, value in values}
    twin.__dict__["_data"] = own
    return twin


def _bare(array: Array) -> Array:
    twin = Array.__new__(Array)
    twin.__dict__.update(array.__dict__)
    twin.__dict__.pop("_chunks", None)
    return twin


def identify(run_id: int, node_id: int) -> None:
    """Tell Flower whose messages this process makes."""
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, run_id, node_id


def refusal(message: Message, code: int, reason: str) -> Message:
    """The reply that says why there is no other."""
    return _numbered(Message(Error(code=code, reason=reason), reply_to=message), message)


def unreachable(message: Message) -> Message:
    """The reply of a node that is not there."""
    reason = f"no client has the node id {message.metadata.dst_node_id}"
    return refusal(message, ErrorCode.NODE_UNAVAILABLE, reason)


def crashed(message: Message, reason: str) -> Message:
    """The reply of a client whose process died over the message."""
    return refusal(message, ErrorCode.CLIENT_APP_CRASHED, reason)


def spoilt(message: Message, error: BaseException) -> Message:
    """The reply of a client that raised `error`, its reason written as Flower writes it."""
    return refusal(message, ErrorCode.CLIENT_APP_RAISED_EXCEPTION, f"{type(error)}:<'{error}'>")


def expired(message: Message) -> Message | None:
    """The refusal of a message whose time to live is over, else None."""
    data = message.metadata
    if time.time() <= data.created_at + data.ttl:
        return None
    return refusal(message, ErrorCode.MESSAGE_UNAVAILABLE, f"not begun within its time to live of {data.ttl:g} s")


def _numbered(reply: Message, message: Message) -> Message:
    reply.metadata.__dict__["_message_id"] = f"{message.metadata.message_id}-reply"
    return reply


@dataclass(frozen=True)
class Clients:
    """All a process needs to answer for the clients; small and picklable. Client i has partition i and node `node_ids[i]`."""

    reference: str
    folder: Path | None
    run_id: int
    node_ids: tuple[int, ...]
    node_config: dict[str, Value]
    run_config: dict[str, Value]

    def app(self) -> ClientApp:
        """The app, loaded, or a SettingError."""
        app = load(self.reference, self.folder)
        if not isinstance(app, ClientApp):
            raise SettingError(f"{self.reference} is a {type(app).__name__}; the clients' part must be a ClientApp")
        return app

    def context(self, index: int) -> Context:
        """A new context of client `index`."""
        place: dict[str, Value] = {"partition-id": index, "num-partitions": len(self.node_ids)}
        return Context(self.run_id, self.node_ids[index], {**self.node_config, **place}, RecordDict(), dict(self.run_config))


@dataclass(frozen=True)
class Job:
    """A message on its way to client `index`; its parts are shared with nobody but jobs that were pushed with it."""

    index: int
    message: Message

    @property
    def id(self) -> str:
        return self.message.metadata.message_id

    def hollow(self) -> Job:
        """The job without its message's content."""
        twin = fresh(self.message, RecordDict())
        return Job(self.index, twin)


def trains(job: Job) -> bool:
    """Whether a message asks for training."""
    return bool(job.message.metadata.message_type == MessageType.TRAIN)


class Desk:
    """Answers for clients in this process, one message at a time."""

    def __init__(self, clients: Clients) -> None:
        self._clients = clients
        self._contexts: dict[int, Context] = {}

    @cached_property
    def app(self) -> ClientApp:
        """The clients' app; a SettingError where it cannot be loaded."""
        return self._clients.app()

    def together(self, jobs: Sequence[Job], size: int, listener: progress.Listener | None) -> list[tuple[Message, str]]:
        """What `answer` gives for several clients that may meet, `size` at a time (see `core.meeting`)."""
        return meeting.together([partial(self.answer, job.index, fresh(job.message), listener) for job in jobs], size)

    def answer(self, index: int, message: Message, listener: progress.Listener | None) -> tuple[Message, str]:
        """The client's reply, or one with an error; and the traceback, empty where all went well."""
        try:
            app = self.app
        except Exception as error:
            return refusal(message, ErrorCode.LOAD_CLIENT_APP_EXCEPTION, str(error)), traceback.format_exc()
        if index not in self._contexts:
            self._contexts[index] = self._clients.context(index)
        try:
            with progress.listening(listener, who=f"client {index}"):
                return _checked(app(message, self._contexts[index]), message), ""
        except (Exception, SystemExit) as error:
            return spoilt(message, error), traceback.format_exc()


def _checked(reply: object, message: Message) -> Message:
    if not isinstance(reply, Message):
        raise TypeError(f"the client returned {type(reply).__name__}; it must return Message(content, reply_to=message)")
    if reply.metadata.reply_to_message_id != message.metadata.message_id:
        raise TypeError("the client returned a message that is no reply; it must return Message(content, reply_to=message)")
    return _numbered(fresh(reply), message)


class InProcess:
    """Runs clients one after the other in this process, when their replies are asked for.

    Where `cohort` is not 0, that many that wait for a training are run together: a reply is asked for, and those of the messages
    that came after its own are kept until their turn. Each is said to have taken an equal share of the time.
    """

    def __init__(self, clients: Clients, cohort: int = 0) -> None:
        self._desk = Desk(clients)
        self._jobs: dict[str, Job] = {}
        self._replies: dict[str, tuple[Message, float]] = {}
        self._turn = threading.RLock()
        self.cohort, self.width = cohort, max(1, cohort)

    def submit(self, jobs: Sequence[Job]) -> None:
        """Take messages in."""
        self._jobs.update((job.id, job) for job in jobs)

    def pull(self, ids: Sequence[str]) -> list[Message]:
        """The replies to these messages, in their order, without those taken before."""
        return list(self._run(ids, lambda: False))

    def gather(self, ids: Sequence[str], deadline: float | None) -> list[Message]:
        """The same, without those that are not there at `deadline` (of `time.monotonic`); clients not begun then are not run."""
        replies = list(self._run(ids, lambda: deadline is not None and time.monotonic() >= deadline))
        for message_id in ids:
            self._jobs.pop(message_id, None)
            self._replies.pop(message_id, None)
        return replies

    def take(self, message_id: str, seconds: float) -> Message | None:
        """One client's reply, run now; None where it took longer than `seconds`, for it is not interrupted."""
        with self._turn:
            found = self._found(message_id)
        if found is None:
            return None
        reply, took = found
        reply.__dict__[TOOK] = took
        return reply if took <= seconds else None

    def close(self) -> None:
        """Nothing to end."""

    def _run(self, ids: Iterable[str], over: Callable[[], bool]) -> Iterable[Message]:
        for message_id in ids:
            with self._turn:
                if over() or (found := self._found(message_id)) is None:
                    continue
            if not over():
                yield found[0]

    def _found(self, message_id: str) -> tuple[Message, float] | None:
        """A reply and the seconds that it took; None of a message that is not known, or was answered."""
        if message_id in self._jobs:
            begun, jobs = time.monotonic(), self._fellows(self._jobs[message_id])
            replies = self._answered(jobs)
            took = (time.monotonic() - begun) / len(jobs)
            self._replies.update((job.id, (reply, took)) for job, reply in zip(jobs, replies, strict=True))
        return self._replies.pop(message_id, None)

    def _fellows(self, job: Job) -> list[Job]:
        """A job and those that are run with it, taken off the list."""
        alike: list[Job] = []
        if self.cohort and trains(job):
            alike = [*filter(trains, dropwhile(lambda other: other is not job, [*self._jobs.values()]))]
        found = alike[: self.cohort] or [job]
        for each in found:
            del self._jobs[each.id]
        return found

    def _answered(self, jobs: Sequence[Job]) -> list[Message]:
        refused = {job.id: said for job in jobs if (said := expired(job.message)) is not None}
        left = [job for job in jobs if job.id not in refused]
        found = self._desk.together(left, self.cohort, progress.current()) if self.cohort and left else self._alone(left)
        for job, (reply, trace) in zip(left, found, strict=True):
            refused[job.id] = reply
            if trace:
                LOG.error("client %d failed:\n%s", job.index, trace)
        return [refused[job.id] for job in jobs]

    def _alone(self, jobs: Sequence[Job]) -> list[tuple[Message, str]]:
        return [self._desk.answer(job.index, fresh(job.message), progress.current()) for job in jobs]
