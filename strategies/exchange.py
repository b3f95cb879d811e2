"""One stage's exchange with its clients: replies are taken one at a time, in the order of the partitions, checked and handed on.

So the server holds one running sum and not all replies, and a sum has one order whoever was first. A reply is used when it comes
in time, is no larger than it may be, answers this very message (its ticket) and passes the strategy's checks; else it is left
out, with one line in the ledger. Where more fail than `min-replies` allows, a client is asked once more, in its place.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from flwr.app import Message
from flwr.serverapp import Grid

from fedwarm.arrays import Arrays
from fedwarm.ledger import Entry, Ledger
from fedwarm.run.pieces import Pieces
from fedwarm.wire import Encoded, Payload, PayloadError, Size, from_records, size_of, to_records

from .fleet import FederationError, Fleet
from .kept import Kept
from .reasons import reason

ATTEMPTS = 2
POLL_SECONDS = 0.05
HEADER_BYTES = 512
SPARE_BYTES = 2**16


@dataclass(frozen=True)
class Stage:
    """One exchange with some clients, or a piece of the server's own work where there are none.

    Attributes:
        round: the round it is booked under.
        name: how the ledger and the display call it.
        message_type: Flower's, e.g. `train` or `train.adapt`; empty without clients.
        clients: partitions, ascending.
        measures: the round whose model the replies measure; -1: none.
        long: it takes so long that each reply is kept on disk until all are in.
    """

    round: int
    name: str
    message_type: str = ""
    clients: tuple[int, ...] = ()
    measures: int = -1
    long: bool = False


@dataclass
class Exchange:
    """What an exchange needs to know of its run.

    Attributes:
        grid: Flower's.
        fleet: who is who.
        ledger: where every exchange is booked.
        key: the run's key, which clients keep their states under.
        seconds: how long a reply may take.
        wanted: fewest valid replies; 0: all.
        pieces: where the replies of a long stage are kept until it ends; None: nowhere.
    """

    grid: Grid
    fleet: Fleet
    ledger: Ledger
    key: str
    seconds: float
    wanted: int = 0
    pieces: Pieces | None = None

    def run(
        self,
        stage: Stage,
        index: int,
        instruct: Callable[[int], Payload],
        expected: Arrays,
        accept: Callable[[int, Payload], None],
    ) -> dict[int, Payload]:
        """Ask the stage's clients; `accept` is called with each usable reply in the order of the partitions.

        Args:
            stage: whom to ask, and how.
            index: the stage's number in its run.
            instruct: what a client is sent.
            expected: the most that a reply's arrays may be, for a limit on its bytes.
            accept: raises PayloadError where a reply, its arrays among it, cannot be used.

        Returns:
            The accepted replies without their arrays, by partition.

        Raises:
            FederationError: fewer usable replies than wanted.
        """
        wanted = min(self.wanted or len(stage.clients), len(stage.clients))
        call = _Call(self, stage, index, instruct, expected, accept)
        spare = len(stage.clients) - wanted
        failed: list[int] = []
        for client in call.ask(stage.clients):
            failed.append(client)
            if len(failed) > spare and not list(call.ask([client], 1)):
                failed.remove(client)
        if len(call.accepted) < wanted:
            call.kept.pieces = None  # what comes now is out of order, and a resumed run would not know
            list(call.ask([c for c in failed if c not in call.asked_again], 1))
        if len(call.accepted) < wanted:
            why = "; ".join(self.ledger.failures(stage.round)[-3:])
            raise FederationError(
                f"round {stage.round}, {stage.name}: {len(call.accepted)} valid replies of {len(stage.clients)}, "
                f"{wanted} are needed (min-replies): {why}"
            )
        return call.accepted


class _Call:
    """The messages of one stage."""

    def __init__(
        self,
        exchange: Exchange,
        stage: Stage,
        index: int,
        instruct: Callable[[int], Payload],
        expected: Arrays,
        accept: Callable[[int, Payload], None],
    ) -> None:
        self.exchange, self.stage, self.index, self.instruct, self.accept = exchange, stage, index, instruct, accept
        self.limit_bytes = sum(a.nbytes + HEADER_BYTES for a in expected.values()) + SPARE_BYTES
        self.accepted: dict[int, Payload] = {}
        self.asked_again: set[int] = set()
        self.encoded: Encoded = {}
        self.kept = Kept(exchange.pieces, index, (stage.round, stage.name), stage.long)

    def ask(self, clients: Sequence[int], attempt: int = 0) -> Iterator[int]:
        """Send messages and take the replies one by one; the clients whose replies failed."""
        if attempt:
            self.asked_again.update(clients)
        exchange = self.exchange
        tickets = {client: f"{self.index}.{attempt}.{client}" for client in clients}
        down: dict[int, Size] = {}
        known = set() if attempt else {client for client in clients if self.kept.find(client) is not None}
        missing = [client for client in clients if client not in known]
        replies = arriving(exchange.grid, (self._message(c, tickets[c], down) for c in missing), exchange.seconds)
        for client in clients:
            if client in known:
                self._take_kept(client)
                continue
            begun = time.monotonic()
            reply = next(replies)
            up, failure, epsilon, payload = Size(), "", 0.0, None
            try:
                if reply is None:
                    raise PayloadError(f"no reply within {exchange.seconds:g} s")
                up = size_of(reply.content) if reply.has_content() else Size()
                payload = self._read(reply, up, tickets[client])
                epsilon = payload.number("epsilon") if "epsilon" in payload.metrics else 0.0
                self.accept(client, payload)
                self.accepted[client] = Payload(payload.kind, {}, payload.metrics, payload.facts)
            except (PayloadError, ValueError) as error:
                failure = _line(error)
            sizes = (down[client].payload_bytes, down[client].wire_bytes, up.payload_bytes, up.wire_bytes)
            seconds = round(time.monotonic() - begun, 3)
            entry = Entry(self.stage.round, self.stage.name, client, *sizes, seconds, failure, tickets[client], epsilon)
            exchange.ledger.add(entry)
            self.kept.booked(entry, None if failure else payload)
            if failure:
                yield client

    def _take_kept(self, client: int) -> None:
        """A reply of the run's earlier part, at its place; it was accepted then, in the same state."""
        found = self.kept.find(client)
        assert found is not None
        payload, entries = found
        self.accept(client, payload)
        self.accepted[client] = Payload(payload.kind, {}, payload.metrics, payload.facts)
        for entry in entries:
            self.exchange.ledger.add(entry)

    def _message(self, client: int, ticket: str, down: dict[int, Size]) -> Message:
        payload = self.instruct(client)
        facts = {**payload.facts, "run": self.exchange.key, "ticket": ticket}
        content = to_records(Payload(payload.kind, payload.arrays, payload.metrics, facts), self.encoded)
        down[client] = size_of(content)
        node, stage = self.exchange.fleet.members[client].node, self.stage
        return Message(content=content, message_type=stage.message_type, dst_node_id=node, group_id=str(stage.round))

    def _read(self, reply: Message, size: Size, ticket: str) -> Payload:
        if reply.has_error():
            raise PayloadError(reason(reply))
        if size.wire_bytes > self.limit_bytes:
            raise PayloadError(f"its arrays take {size.wire_bytes:,} bytes, {self.limit_bytes:,} is the most that fits here")
        payload = from_records(reply.content)
        told = payload.text("ticket")
        if told != ticket:
            raise PayloadError(f"it answers message {told[:40]!r} and not {ticket!r}")
        return payload


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


def _line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
