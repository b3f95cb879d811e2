"""Messages to a stage's clients and their replies, one by one, in the order of the messages.

In simulation every client answers. On real nodes each reply is waited for until the stage's deadline, with a line now and then
that says for whom. A message is lost with the node that took it in, and Flower does not send it again: where a node came back
since it was asked, that counts as unavailable, and its client is asked again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import zip_longest

from flwr.app import Error, Message
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from fedwarm.core.payload import PayloadError
from fedwarm.flower.packing import Packs, pack, signed, unpack
from fedwarm.rounds import waiting
from fedwarm.rounds.attendance import Attendance

POLL_SECONDS, LOOK_SECONDS = 0.05, 5.0
SKEW_SECONDS = 600.0
"""How much longer a message lives than it is waited for: clocks differ; Flower's own checks allow 305 s."""
UNREADABLE = (ValueError, TypeError, LookupError, AttributeError, RecursionError, EOFError, DecodeError)
"""What comes of objects that are none of Flower's, or not those that belong there."""
LOST = (
    ErrorCode.NODE_UNAVAILABLE, ErrorCode.CLIENT_APP_CRASHED, ErrorCode.MESSAGE_UNAVAILABLE, ErrorCode.REPLY_MESSAGE_UNAVAILABLE,
)  # fmt: skip


class Contacts:
    """Which node was asked for which client of a stage, and what its reply says of it.

    Args:
        grid: Flower's.
        attendance: who is there.
        stage: how a line calls the stage.
        seconds: how long a reply may take.
    """

    def __init__(self, grid: Grid, attendance: Attendance, stage: str, seconds: float) -> None:
        self.grid, self.attendance, self.stage, self.seconds = grid, attendance, stage, seconds
        self.nodes: dict[int, int] = {}
        self.lost: set[int] = set()

    @property
    def lifetime(self) -> float | None:
        """Seconds after which a message is dropped wherever it is; None: Flower's own."""
        return self.seconds + SKEW_SECONDS if self.attendance.real else None

    def node(self, client: int) -> int:
        """The node that is asked for a client now."""
        self.nodes[client] = self.attendance.fleet.members[client].node
        return self.nodes[client]

    def replies(self, clients: Sequence[int], messages: Iterable[Message]) -> Iterator[Message | None]:
        """Send the clients' messages; their replies in this order, None for one that took too long."""
        if not self.attendance.real:
            yield from arriving(self.grid, messages, self.seconds)
            return
        for client, reply in zip(clients, self._awaited(clients, list(messages)), strict=True):
            self._heed(client, reply)
            yield reply

    def worth_asking(self, client: int, needed: bool) -> bool:
        """Whether a client whose reply failed is asked once more in its place: on real nodes, one that was lost and is back."""
        if self.attendance.real and client in self.lost:
            return self.attendance.returned(client)
        return needed and client in self.attendance.fleet.here

    def _heed(self, client: int, reply: Message | None) -> None:
        node = self.nodes[client]
        if reply is None:
            self.attendance.silent(client, node)
        elif not reply.has_error():
            self.attendance.heard(client, node)
        elif reply.error.code in LOST:
            self.lost.add(client)
            if reply.error.code == ErrorCode.NODE_UNAVAILABLE:
                self.attendance.lost(client, node)

    def _awaited(self, clients: Sequence[int], messages: list[Message]) -> Iterator[Message | None]:
        end, arrived = waiting.now() + self.seconds, self.attendance.arrived()
        self._pack(clients, messages)
        ids = list(self.grid.push_messages(messages)) if messages else []
        for place, (message, message_id) in enumerate(zip_longest(messages, ids)):
            if not message_id:
                yield _unavailable(
                    message, "the server did not take its message: it is too large, or its node not known any more"
                )
                continue
            after = len(messages) - place - 1
            more = f" and {after} whose turn comes after it" if after else ""
            whom = f"{self.attendance.fleet.members[clients[place]].label}{more}"
            yield self._reply(message, message_id, arrived.get(message.metadata.dst_node_id), end, whom)

    def _pack(self, clients: Sequence[int], messages: list[Message]) -> None:
        known: Packs = {}
        for client, message in zip(clients, messages, strict=True):
            if level := self.attendance.fleet.members[client].packs:
                message.content = signed(pack(message.content, known, level), level)

    def _reply(self, message: Message, message_id: str, came: object, end: float, whom: str) -> Message | None:
        said = looked = waiting.now()
        while True:
            try:
                found = next(iter(pulled(self.grid, [message_id])), None)
            except PayloadError as error:
                return Message(Error(ErrorCode.UNKNOWN, str(error)), reply_to=message)
            now = waiting.now()
            if found is not None and found.has_content():
                found.content = unpack(found.content)
            if found is not None or now >= end:
                return found
            if now - looked >= LOOK_SECONDS:
                looked, again = now, self.attendance.arrived().get(message.metadata.dst_node_id)
                if again is not None and again != came:
                    return _unavailable(message, "its node was away since it was asked, and the message with it")
            if now - said >= waiting.LINE_SECONDS:
                said, since = now, now - end + self.seconds
                waiting.say(f"{self.stage}: waiting for {whom} since {since:.0f} s, {end - now:.0f} s are left")
            waiting.sleep(min(waiting.POLL_SECONDS, end - now))


def pulled(grid: Grid, message_ids: Sequence[str]) -> list[Message]:
    """The replies to messages that are there.

    Raises:
        PayloadError: one cannot be read; Flower's grid raises whatever comes of that.
    """
    try:
        return list(grid.pull_messages([*message_ids]))
    except UNREADABLE as error:
        raise PayloadError(f"its reply cannot be read ({type(error).__name__})") from error


def _unavailable(message: Message, why: str) -> Message:
    return Message(Error(ErrorCode.NODE_UNAVAILABLE, why), reply_to=message)


def arriving(grid: Grid, messages: Iterable[Message], seconds: float) -> Iterator[Message | None]:
    """The reply of each message in their order, None where there is none in time.

    The local engine sends and takes them little by little; on Flower's grids all are sent, and replies wait there for their turn.
    """
    stream: Callable[[Iterable[Message], float], Iterator[Message | None]] | None = getattr(grid, "stream", None)
    return stream(messages, seconds) if stream is not None else _polled(grid, list(messages), seconds)


def _polled(grid: Grid, messages: list[Message], seconds: float) -> Iterator[Message | None]:
    end = time.monotonic() + seconds
    sent = set(grid.push_messages(messages))
    for message in messages:
        message_id, found = message.metadata.message_id, None
        while found is None and message_id in sent:
            found = next(iter(grid.pull_messages([message_id])), None)
            if found is None and time.monotonic() > end:
                break
            if found is None:
                time.sleep(POLL_SECONDS)
        yield found
