"""What every fault keeps to, an installed package's own among them; each check can be called for any fault."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from flwr.app import Context, Message, RecordDict

from fedwarm.core.arrays import Arrays
from fedwarm.core.norms import reference_norm, too_large, update_norm
from fedwarm.core.payload import Payload, PayloadError, check_arrays
from fedwarm.engines.local.desk import identify
from fedwarm.faults import Faults, strikes
from fedwarm.flower.wire import from_records, size_of, to_records
from fedwarm.rounds.faulty import earlier, faulty
from fedwarm.settings.kinds import FAULTS
from fedwarm.settings.registry import Kind

Check = Callable[[Kind[Any], str], None]
SENT: Arrays = {"w": np.ones((20, 30), np.float32), "v": np.full(4, -2.0)}
MOST_BYTES = sum(a.nbytes + 512 for a in SENT.values()) + 2**16


def read(reply: Message, ticket: str = "4.0.1") -> Payload:
    """What a server does before it uses a reply: size, decoding, ticket, names and numbers, length of the update."""
    if size_of(reply.content).wire_bytes > MOST_BYTES:
        raise PayloadError("too many bytes")
    payload = from_records(reply.content)
    if payload.text("ticket") != ticket:
        raise PayloadError(f"answers {payload.text('ticket')}")
    check_arrays(payload.arrays, SENT)
    if too_large(update_norm(payload.arrays, SENT), reference_norm(SENT), [], 100.0):
        raise PayloadError("too long an update")
    return payload


def answer(message: Message, context: Context) -> Message:
    """An honest client's reply, half a step away from what it was sent, in arrays that may not be written to."""
    payload = from_records(message.content)
    arrays: Arrays = {name: (1.5 * array.astype(float)).astype(array.dtype) for name, array in payload.arrays.items()}
    for array in arrays.values():
        array.flags.writeable = False
    facts: dict[str, Any] = {"ticket": payload.text("ticket"), "who": "me"}
    return Message(to_records(Payload("weights", arrays, {"num-examples": 3}, facts)), reply_to=message)


def asked(name: str, rate: float = 1.0, ticket: str = "4.0.1", message_type: str = "train") -> Message:
    """The reply that the server gets of a client that is struck at this rate."""
    identify(run_id=1, node_id=1)
    payload = Payload("weights", SENT, {"round": 2}, {"ticket": ticket})
    message = Message(to_records(payload), message_type=message_type, dst_node_id=1)
    config: Any = {"seed": 0, "faults.kind": name, "faults.rate": rate, "faults.delay-seconds": 0.0}
    return faulty(message, Context(7, 1, {}, RecordDict(), config), answer)


def check_refused(kind: Kind[Any], name: str) -> None:
    """Each reply to which it happens is refused in one line, or the fault says that it passes."""
    earlier.clear()
    if not kind.load(name).refused:
        assert read(asked(name)).metrics == {"num-examples": 3}
        return
    with pytest.raises((PayloadError, RuntimeError)) as caught:
        read(asked(name))
    assert len(str(caught.value).splitlines()) == 1
    earlier.clear()


def check_spared(kind: Kind[Any], name: str) -> None:
    """A reply that is not struck, or is to no training message, is the client's own."""
    honest = asked(FAULTS.first).content
    assert asked(name, rate=0.0).content == asked(name, message_type="evaluate").content == honest
    earlier.clear()


def check_struck(kind: Kind[Any], name: str) -> None:
    """Which replies are struck is the same for all faults but none."""
    tickets = [f"{stage}.0.{client}" for stage in range(10) for client in range(5)]
    struck = [ticket for ticket in tickets if strikes(Faults(kind=name, rate=0.3), 0, ticket)]
    expected = [ticket for ticket in tickets if strikes(Faults(kind="crash", rate=0.3), 0, ticket)]
    assert struck == ([] if name == kind.first else expected) and expected


CHECKS: tuple[Check, ...] = (check_refused, check_spared, check_struck)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", FAULTS)
def test_contract(name: str, check: Check) -> None:
    check(FAULTS, name)
