"""The local engine: runs any Flower app on this machine, without a daemon and without Ray.

`LocalGrid` is Flower's `Grid` over clients of this machine: in this process, one after the other, or in a pool of workers.
`run_local` is one run: it makes the clients and the grid, calls the ServerApp, and ends what it began.

`Run` and the server's own node id are private names of Flower's, wanted by `Grid` itself.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from itertools import count, islice
from typing import Protocol

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.serverapp import Grid, ServerApp
from flwr.supercore.run import Run

from fedwarm.core.capacity import threads_of, workers_for
from fedwarm.core.forking import start_method
from fedwarm.core.spread import shared
from fedwarm.engines.local.desk import Clients, InProcess, Job, copied, fresh, identify, unreachable
from fedwarm.engines.local.workers import Pool
from fedwarm.flower.app import FlowerApp, load, merged
from fedwarm.settings.fields import SettingError, Value

Listener = Callable[[Message], None]
QUIET = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}


class Runner(Protocol):
    """What runs clients: takes messages in, and gives replies in the order in which they are asked for."""

    width: int
    cohort: int

    def submit(self, jobs: Sequence[Job]) -> None: ...
    def take(self, message_id: str, seconds: float) -> Message | None: ...
    def pull(self, ids: Sequence[str]) -> list[Message]: ...
    def gather(self, ids: Sequence[str], deadline: float | None) -> list[Message]: ...
    def close(self) -> None: ...


def _deaf(message: Message) -> None:
    """Nobody listens."""


class LocalGrid(Grid):
    """Flower's grid over the clients of `runner`; client i is on node `node_ids[i]`.

    It may be used from several threads. Replies come in the order of their messages, whoever was first. Who listens is told of
    every message before it goes, and of every reply as it is handed on. `cohort`: how many clients train together; 0: none.
    """

    def __init__(self, node_ids: Sequence[int], runner: Runner, run_id: int, listen: Listener = _deaf) -> None:
        self._listen = listen
        self._index = {node_id: index for index, node_id in enumerate(node_ids)}
        self._runner, self.cohort = runner, runner.cohort
        self._run = Run.create_empty(run_id)
        self._numbers = count(1)
        self._refused: dict[str, Message] = {}
        self._lock = threading.Lock()

    def set_run(self, run: Run) -> None:
        """Replace what `run` tells."""
        if not isinstance(run, Run):
            raise TypeError(f"`run` must be an instance of Run, got {type(run).__name__}")
        self._run = run

    @property
    def run(self) -> Run:
        """A copy of what is known of the run."""
        return Run(**vars(self._run))

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """A message, as `Message(content, dst_node_id, message_type)` makes it."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """All nodes, in no order that means anything: who is who, the nodes themselves can tell."""
        return sorted(self._index)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send messages as they are now; their ids, in their order. An unknown node answers with an error at once.

        Raises:
            ValueError: a message without content, one that is a reply, or one whose time to live is not positive.
        """
        return self._push(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The replies that are there. Where clients run in this process, they run now and all replies are there."""
        return self._with_refused(list(message_ids), None, wait=False)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Send messages and wait for their replies, `timeout` seconds at most; replies that are late are left out.

        In this process a client that has begun is not interrupted.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        return self._with_refused(self._push(messages), deadline, wait=True)

    def stream(self, messages: Iterable[Message], seconds: float) -> Iterator[Message | None]:
        """The replies in the order of the messages, one by one; None for a client that takes longer than `seconds`.

        Messages are taken from their iterator a few ahead of the replies, so that neither pile up. Not part of Flower's `Grid`.
        """
        source = iter(messages)
        ahead = deque(self._push(islice(source, self._runner.width)))
        while ahead:
            message_id = ahead.popleft()
            with self._lock:
                refused = self._refused.pop(message_id, None)
            reply = refused or self._runner.take(message_id, seconds)
            if reply is not None:
                self._listen(reply)
            yield reply
            ahead.extend(self._push(islice(source, 1)))

    def _with_refused(self, ids: list[str], deadline: float | None, *, wait: bool) -> list[Message]:
        with self._lock:
            refused = {message_id: self._refused.pop(message_id) for message_id in ids if message_id in self._refused}
        asked = [message_id for message_id in ids if message_id not in refused]
        replies = self._runner.gather(asked, deadline) if wait else self._runner.pull(asked)
        there = {reply.metadata.reply_to_message_id: reply for reply in replies} | refused
        found = [there[message_id] for message_id in ids if message_id in there]
        for reply in found:
            self._listen(reply)
        return found

    def _push(self, messages: Iterable[Message]) -> list[str]:
        pushed = list(messages)
        for message in pushed:
            _check(message)
        contents = {id(message.content): message.content for message in pushed}
        contents = {key: copied(content) for key, content in contents.items()}
        jobs, ids = [], []
        for message in pushed:
            with self._lock:
                ids.append(f"{self._run.run_id:x}-{next(self._numbers)}")
            message.metadata.__dict__["_message_id"] = ids[-1]
            self._listen(message)
            index = self._index.get(message.metadata.dst_node_id)
            if index is None:
                self._refused[ids[-1]] = unreachable(message)
            else:
                jobs.append(Job(index, fresh(message, contents[id(message.content)])))
        self._runner.submit(jobs)
        return ids


def _check(message: Message) -> None:
    data = message.metadata
    if not (message.has_content() and data.reply_to_message_id == "" and data.ttl > 0):
        raise ValueError(f"Invalid message: it needs content, a positive ttl, and to be no reply: {data}")


def make_node_ids(clients: int) -> tuple[int, ...]:
    """One id for each client: positive, 63 bits, the same in every run, and without a meaning that an app could lean on."""
    digests = (hashlib.sha256(f"fedwarm client {index}".encode()).digest() for index in range(clients))
    return tuple(int.from_bytes(digest[:8], "big") >> 1 for digest in digests)


def run_local(
    app: FlowerApp,
    config: Mapping[str, Value],
    *,
    clients: int,
    workers: int = 0,
    node_config: Mapping[str, Value] | None = None,
    run_id: int | None = None,
    listen: Listener = _deaf,
) -> Context:
    """Run an app with `clients` clients on this machine; the server's context at the end.

    `config` overrides what the app's own config says, `node_config` is added to every client's. `workers` processes run the
    clients, each with its share of the cores; 0: as many as cores and memory are good for, 1: no process, they run in this one.
    What the server spreads over processes goes over as many.
    `listen` is called with every message and every reply.
    A program that calls this at its top level needs `if __name__ == "__main__":`, as with every use of `multiprocessing`.

    Raises:
        SettingError: an override of an unknown key, an app that cannot be loaded, fewer than one client or 0 workers.
        Exception: what the ServerApp raises.
    """
    if clients < 1:
        raise SettingError(f"clients = {clients} is too few; a run needs at least 1")
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    settings = merged(app.config, config)
    run_id = secrets.randbits(63) if run_id is None else run_id
    crowd = Clients(app.client, app.folder, run_id, make_node_ids(clients), dict(node_config or {}), settings)
    with closing(_runner(crowd, workers)) as runner:
        server = load(app.server, app.folder)
        if not isinstance(server, ServerApp):
            raise SettingError(f"{app.server} is a {type(server).__name__}; the server's part must be a ServerApp")
        identify(run_id, SUPERLINK_NODE_ID)
        context = Context(run_id, SUPERLINK_NODE_ID, {}, RecordDict(), dict(settings))
        with shared(workers):
            server(LocalGrid(crowd.node_ids, runner, run_id, listen), context)
        return context


def _runner(crowd: Clients, asked: int) -> Runner:
    app, clients = crowd.app(), len(crowd.node_ids)
    workers, cohort = asked or _said(app, "workers", crowd), _said(app, "cohort", crowd)
    workers = workers_for(clients, workers, 0 if workers else _said(app, "holds", crowd))
    return InProcess(crowd, cohort) if workers == 1 else Pool(crowd, workers, threads_of(workers), start_method(), cohort)


def _said(app: ClientApp, name: str, crowd: Clients) -> int:
    """What an app says of its clients, where it says something: a function (settings, clients) of this name; else 0."""
    say: Callable[[Mapping[str, Value], int], int] | None = getattr(app, name, None)
    return 0 if say is None else say(crowd.run_config, len(crowd.node_ids))
