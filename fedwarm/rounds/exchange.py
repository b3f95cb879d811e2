"""One stage's exchange with its clients: replies are taken one at a time, in the order of the partitions, checked and handed on.

So the server holds one running sum and not all replies, and a sum has one order whoever was first. A reply is used when it comes
in time, is no larger than it may be, answers this very message (its ticket) and passes the strategy's checks; else it is left
out, with one line in the ledger. Where more fail than `min-replies` allows, a client is asked once more, in its place. On real
nodes one that was lost is asked once more when it is back. What only measures the model never ends a run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from flwr.app import Message, MessageType
from flwr.serverapp import Grid

from fedwarm.core.arrays import Arrays
from fedwarm.core.logs import at
from fedwarm.core.nodes import Patience
from fedwarm.core.payload import Fact, Payload, PayloadError
from fedwarm.core.stages import TOOK, Stage
from fedwarm.flower.wire import Encoded, Size, from_records, size_of, to_records
from fedwarm.record.ledger import Entry, Ledger
from fedwarm.record.pieces import Pieces
from fedwarm.rounds.arrivals import Contacts
from fedwarm.rounds.attendance import Attendance
from fedwarm.rounds.fleet import FederationError
from fedwarm.rounds.kept import Kept
from fedwarm.rounds.reasons import reason

HEADER_BYTES = 512
SPARE_BYTES = 2**16
SHOWN = 3  # failures in an error's line


@dataclass
class Exchange:
    """What an exchange needs to know of its run.

    Attributes:
        grid: Flower's.
        attendance: who is who, and there.
        ledger: where every exchange is booked.
        key: the run's key, which clients keep their states under.
        patience: how long a reply may take, and how many are needed.
        pieces: where the replies of a long stage are kept until it ends; None: nowhere.
        told: facts that every message tells.
    """

    grid: Grid
    attendance: Attendance
    ledger: Ledger
    key: str
    patience: Patience
    pieces: Pieces | None = None
    told: Mapping[str, Fact] = field(default_factory=dict)

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
        at(round=stage.round)
        call = _Call(self, stage, index, instruct, expected, accept)
        asked = call.present()
        wanted = self.patience.wanted(len(asked))
        spare, optional = len(asked) - wanted, stage.message_type == MessageType.EVALUATE or (stage.alone and not asked)
        needed = 0 if optional else max(1, wanted)
        failed: list[int] = []
        for client in call.ask(asked):
            failed.append(client)
            if call.contacts.worth_asking(client, len(failed) > spare) and not list(call.ask([client], 1)):
                failed.remove(client)
        if len(call.accepted) < needed:
            here = self.attendance.fleet.here
            call.kept.pieces = None  # what comes now is out of order, and a resumed run would not know
            list(call.ask([c for c in failed if c not in call.asked_again and c in here], 1))
        if len(call.accepted) < needed:
            reasons = [*dict.fromkeys(self.ledger.failures(stage.round))]
            why = "; ".join([*reasons[-SHOWN:], *([f"and {len(reasons) - SHOWN} more"] if len(reasons) > SHOWN else [])])
            needs = "robust.rule" if needed == self.patience.least > 1 else "min-replies"
            raise FederationError(
                f"round {stage.round}, {stage.name}: {len(call.accepted)} valid replies of {len(stage.clients)}, "
                f"{needed} are needed ({needs}): {why or 'the others are not here'}"
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
        seconds = exchange.patience.seconds(stage.name)
        self.contacts = Contacts(exchange.grid, exchange.attendance, f"round {stage.round}, {stage.name}", seconds)
        self.encoded: Encoded = {}
        self.kept = Kept(exchange.pieces, index, (stage.round, stage.name), stage.long)

    def present(self) -> list[int]:
        """The stage's clients that are here, or answered before the run was resumed; the others are booked as absent."""
        attendance = self.exchange.attendance
        answered = [client for client in attendance.partitions if self.kept.find(client) is not None] if attendance.real else []
        able = {*attendance.fleet.here, *answered}
        for client in self.stage.clients:
            if client not in able:
                self._book(client, (0, 0, 0, 0), 0.0, "it is not here", "", 0.0)
        self._book_refusals()
        return sorted(able & {*self.stage.clients, *answered})

    def _book_refusals(self) -> None:
        """Book clients that refused the run itself, once: the ledger counts them with those that refuse a message."""
        booked = {(entry.client, entry.failure) for entry in self.exchange.ledger.entries if entry.failure}
        for client, (site, why) in sorted(self.exchange.attendance.refusals.items()):
            if client in self.exchange.attendance.partitions and (client, why) not in booked:
                self._book(client, (0, 0, 0, 0), 0.0, why, "", 0.0, site)

    def ask(self, clients: Sequence[int], attempt: int = 0) -> Iterator[int]:
        """Send messages and take the replies one by one; the clients whose replies failed."""
        if attempt:
            self.asked_again.update(clients)
        tickets = {client: f"{self.index}.{attempt}.{client}" for client in clients}
        down: dict[int, Size] = {}
        known = set() if attempt else {client for client in clients if self.kept.find(client) is not None}
        missing = [client for client in clients if client not in known]
        replies = self.contacts.replies(missing, (self._message(c, tickets[c], down) for c in missing))
        for client in clients:
            if client in known:
                self._take_kept(client)
                continue
            begun = time.monotonic()
            reply = next(replies)
            up, failure, epsilon, payload = Size(), "", 0.0, None
            try:
                if reply is None:
                    raise PayloadError(f"no reply within {self.contacts.seconds:g} s")
                up = size_of(reply.content) if reply.has_content() else Size()
                payload = self._read(reply, up, tickets[client])
                epsilon = payload.number("epsilon") if "epsilon" in payload.metrics else 0.0
                self.accept(client, payload)
                self.accepted[client] = Payload(payload.kind, {}, payload.metrics, payload.facts)
            except (PayloadError, ValueError) as error:
                failure = _line(error)
            sizes = (down[client].payload_bytes, down[client].wire_bytes, up.payload_bytes, up.wire_bytes)
            seconds = getattr(reply, TOOK, time.monotonic() - begun)
            entry = self._book(client, sizes, seconds, failure, tickets[client], epsilon)
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

    def _book(
        self,
        client: int,
        sizes: tuple[int, int, int, int],
        seconds: float,
        failure: str,
        ticket: str,
        epsilon: float,
        site: str = "",
    ) -> Entry:
        name = site or self.exchange.attendance.fleet.members[client].name
        entry = Entry(self.stage.round, self.stage.name, client, *sizes, round(seconds, 3), failure, ticket, epsilon, name)
        self.exchange.ledger.add(entry)
        return entry

    def _message(self, client: int, ticket: str, down: dict[int, Size]) -> Message:
        payload = self.instruct(client)
        named: dict[str, Fact] = {"action": self.stage.action} if self.stage.action else {}
        facts = {**payload.facts, **self.exchange.told, **named, "run": self.exchange.key, "ticket": ticket}
        content = to_records(Payload(payload.kind, payload.arrays, payload.metrics, facts), self.encoded)
        own = {id(array) for array in payload.arrays.values()}
        self.encoded = {key: kept for key, kept in self.encoded.items() if key in own}  # not what one client alone was sent
        down[client] = size_of(content)
        node, number = self.contacts.node(client), str(self.stage.round)
        return Message(content, node, self.stage.message_type, ttl=self.contacts.lifetime, group_id=number)

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


def _line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
