"""Real nodes without machines: a grid whose nodes are switched off, hang and come back by a clock that only waiting moves.

with world(partitions=3) as machines:
    machines.at(40.0, lambda: machines.kill(1))
    machines.at(45.0, lambda: machines.start(1))
    outcome = machines.federate("fedavg", tmp_path / "run", {"num-server-rounds": 3})
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from flwr.app import Error, Message
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from fedwarm.catalogue import parse
from fedwarm.engines.local.desk import Clients, Desk, fresh, identify
from fedwarm.record.folder import RunFolder
from fedwarm.rounds import waiting
from fedwarm.settings.fields import Value
from strategies import strategy_class
from tests.runs import Outcome, action_of

NOTICED_SECONDS = 60.0
WORK_SECONDS = 8.0


@dataclass
class Node:
    """A SuperNode: what it answers for, and what became of it."""

    id: int
    partition: int
    came: float
    name: str = ""
    died: float | None = None
    hung: bool = False


@dataclass
class Sent:
    """A message on its way."""

    message: Message
    node: Node | None
    at: float
    reply: Message | None = None


@dataclass
class Machines(Grid):
    """The grid; `lines` is what the run said while it waited, `sent` every message."""

    partitions: int
    keys: bool = False
    time: float = 0.0
    lines: list[str] = field(default_factory=list)
    nodes: dict[int, Node] = field(default_factory=dict)
    sent: dict[str, Sent] = field(default_factory=dict)
    events: list[tuple[float, Callable[[], object]]] = field(default_factory=list)
    node_config: dict[int, dict[str, Value]] = field(default_factory=dict)
    spoil: Callable[[Sent, Message], Message] | None = None

    def __post_init__(self) -> None:
        self.ids, self.numbers = itertools.count(1001), itertools.count(1)
        self.desks: dict[int, Desk] = {}
        self.flat: dict[str, Value] = {}
        self.watchers: list[Callable[[Sent], object]] = []

    # What happens

    def at(self, time: float, event: Callable[[], object]) -> None:
        """Let something happen at a time of the clock."""
        self.events.append((time, event))

    def when(self, round_: int, stage: str, event: Callable[[], object], *, after: int = 0) -> None:
        """Let something happen once, when a message of a round's stage (its action or Flower type) is sent to client `after`."""
        done: list[bool] = []

        def watch(sent: Sent) -> None:
            data = sent.message.metadata
            meant = stage in (data.message_type, action_of(sent.message))
            hit = data.group_id == str(round_) and meant and sent.node and sent.node.partition == after
            if hit and not done:
                done.append(True)
                event()

        self.watchers.append(watch)

    def start(self, partition: int, *, name: str = "") -> Node:
        """Switch a node on: with keys under the id that it had, else under a new one."""
        before = next((n for n in reversed(self.nodes.values()) if n.partition == partition and n.died is not None), None)
        id_ = before.id if before is not None and self.keys else next(self.ids)
        self.nodes[id_] = Node(id_, partition, self.time, name)
        return self.nodes[id_]

    def node(self, partition: int) -> Node:
        """The newest node of a partition."""
        return [n for n in self.nodes.values() if n.partition == partition][-1]

    def kill(self, partition: int) -> None:
        """Switch it off."""
        self.node(partition).died = self.time

    def sleep(self, seconds: float) -> None:
        """Let time pass, and what was to happen in it happen."""
        self.time += seconds
        due = [event for event in self.events if event[0] <= self.time]
        self.events = [event for event in self.events if event not in due]
        for _, happen in sorted(due, key=lambda event: event[0]):
            happen()

    # Flower's grid

    def set_run(self, run: Run) -> None:
        raise NotImplementedError

    @property
    def run(self) -> Run:
        raise NotImplementedError

    def create_message(self, *given: Any, **named: Any) -> Message:
        raise NotImplementedError

    def _online(self, node: Node) -> bool:
        return node.died is None or self.time < node.died + NOTICED_SECONDS

    def get_node_ids(self) -> Iterable[int]:
        return [node.id for node in self.nodes.values() if self._online(node)]

    def get_nodes(self) -> Iterable[Any]:
        told = [self.nodes[i] for i in self.get_node_ids()]
        return [
            SimpleNamespace(node_id=n.id, name=n.name, last_activated_at=f"{n.came:012.3f}", registered_at=f"{n.came:012.3f}")
            for n in told
        ]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        assert isinstance(messages, list), "Flower's grid goes through the messages twice"
        ids = []
        for message in messages:
            ids.append(f"m{next(self.numbers)}")
            message.metadata.__dict__["_message_id"] = ids[-1]
            self.sent[ids[-1]] = Sent(fresh(message), self.nodes.get(message.metadata.dst_node_id), self.time)
        for message_id in ids:
            for watch in self.watchers:
                watch(self.sent[message_id])
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        found = [self._reply(self.sent[message_id]) for message_id in message_ids]
        return [reply for reply in found if reply is not None]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        raise NotImplementedError

    def _reply(self, sent: Sent) -> Message | None:
        if sent.reply is not None:
            return sent.reply
        asked = sent.node
        node = None if asked is None else self.nodes[asked.id]  # with keys a machine that was started anew has its old id
        if node is None or not self._online(node):
            return self._unavailable(sent)
        if node.died is not None or node.hung or self.time < max(sent.at, node.came) + WORK_SECONDS:
            return None
        if node is not asked and asked is not None and asked.died is not None and asked.died > sent.at:
            return None  # it went with the machine that had taken it
        reply = self._answer(node, sent.message)
        sent.reply = reply if self.spoil is None else self.spoil(sent, reply)
        return sent.reply

    def _unavailable(self, sent: Sent) -> Message:
        error = Error(ErrorCode.NODE_UNAVAILABLE, "Node Unavailable: The destination node failed to report a heartbeat")
        reply = Message(error, reply_to=sent.message)
        reply.metadata.__dict__["_src_node_id"] = SUPERLINK_NODE_ID
        sent.reply = reply
        return reply

    def _answer(self, node: Node, message: Message) -> Message:
        desk = self.desks.setdefault(node.partition, self._desk(node.partition))
        return desk.answer(node.partition, fresh(message), None)[0]

    def _desk(self, partition: int) -> Desk:
        own, ids = self.node_config.get(partition, {}), tuple(range(1, self.partitions + 1))
        return Desk(Clients("fedwarm.clients.client_app:app", None, 1, ids, own, self.flat))

    # A run

    def federate(self, method: str, folder: Path, settings: dict[str, Value]) -> Outcome:
        """Run a method on these machines."""
        self.flat = {"method": method, "out": str(folder), "client-folder": str(folder / "clients"), **settings}
        self.desks.clear()
        identify(1, SUPERLINK_NODE_ID)
        config = parse(self.flat)
        strategy_class(config.run.method)(config, RunFolder(folder)).start(self)
        return Outcome(folder)


@contextmanager
def world(partitions: int, *, keys: bool = False, on: Iterable[int] | None = None) -> Iterator[Machines]:
    """Machines for so many partitions, those `on` switched on (default: all), and a clock of their own for all waiting."""
    machines = Machines(partitions, keys)
    for partition in range(partitions) if on is None else on:
        machines.start(partition)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(waiting, "now", lambda: machines.time)
        patch.setattr(waiting, "sleep", machines.sleep)
        patch.setattr(waiting, "say", machines.lines.append)
        yield machines
