"""A Flower mod that spoils training replies as the settings `faults.*` say; the formulas are those of `fedwarm.core.faults`.

    app = ClientApp(mods=[faulty])

Without faults it costs one look at the settings. A reply without arrays has nothing that the kinds that change arrays could
spoil: it is struck by `crash`, `delay`, `replay`, `extra_key` and `oversized` alone.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace

from flwr.app import Array, ArrayRecord, Context, Message, RecordDict

from fedwarm.core.faults import Faults, InjectedError, cut, faults_of, spoilt, stale, strikes
from fedwarm.flower.wire import from_records, to_records
from fedwarm.settings.config import General

EARLIER_AT_MOST = 16
_earlier: OrderedDict[tuple[int, int], RecordDict] = OrderedDict()


def faulty(message: Message, context: Context, call_next: Callable[[Message, Context], Message]) -> Message:
    """Answer by `call_next`, and spoil the answer where its ticket is struck.

    Raises:
        InjectedError: the fault is a crash.
        SettingError: a setting of the faults cannot be used.
    """
    if context.run_config.get("faults.kind", "none") == "none" or message.metadata.message_type.partition(".")[0] != "train":
        return call_next(message, context)
    faults = faults_of(context.run_config)
    ticket = _ticket(message.content)
    struck = strikes(faults, int(context.run_config.get("seed", General.seed)), ticket)
    if struck and faults.kind == "crash":
        raise InjectedError(f"injected fault: crash, ticket {ticket}")
    reply = call_next(message, context)
    if reply.has_error():
        return reply
    honest = reply.content
    if struck:
        reply.content = _spoilt(faults, honest, message.content, (context.run_id, context.node_id))
    if faults.kind == "replay":
        _remember((context.run_id, context.node_id), honest)
    return reply


def _ticket(content: RecordDict) -> str:
    facts = content.config_records.get("facts")
    return str(facts.get("ticket", "")) if facts is not None else ""


def _spoilt(faults: Faults, honest: RecordDict, sent: RecordDict, who: tuple[int, int]) -> RecordDict:
    """What is sent instead of the honest content."""
    if faults.kind == "delay":
        time.sleep(faults.delay_seconds)
    elif faults.kind == "replay":
        return _replayed(honest, _ticket(sent), who)
    elif faults.kind == "truncated":
        return _truncated(honest)
    else:
        payload = from_records(honest)
        arrays = spoilt(faults, payload.arrays, from_records(sent).arrays)
        return honest if arrays is None else to_records(replace(payload, arrays=arrays))
    return honest


def _replayed(honest: RecordDict, ticket: str, who: tuple[int, int]) -> RecordDict:
    """An earlier reply of this client to another ticket; where this process knows none, this one with a stale ticket."""
    earlier = _earlier.get(who)
    if earlier is not None and _ticket(earlier) != ticket:
        return earlier
    payload = from_records(honest)
    return to_records(replace(payload, facts={**payload.facts, "ticket": stale(ticket)}))


def _remember(who: tuple[int, int], content: RecordDict) -> None:
    """Keep a client's last honest reply, and forget the client that answered longest ago where there are too many."""
    _earlier.pop(who, None)
    _earlier[who] = content
    while len(_earlier) > EARLIER_AT_MOST:
        _earlier.popitem(last=False)


def _truncated(honest: RecordDict) -> RecordDict:
    """The content with half of its first array's bytes; unchanged where it has no array."""
    arrays = dict(honest.array_records["arrays"])
    for name, array in list(arrays.items())[:1]:
        arrays[name] = Array(array.dtype, array.shape, array.stype, cut(array.data))
    return RecordDict({**honest, "arrays": ArrayRecord(arrays)})
