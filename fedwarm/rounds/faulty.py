"""A Flower mod that spoils training replies as the settings `faults.*` say; what is wrong with them is said in `fedwarm.faults`.

    app = ClientApp(mods=[faulty])

Without faults it costs one look at the settings. A reply without arrays has nothing that the kinds that change arrays could
spoil.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from flwr.app import Array, ArrayRecord, Context, Message, RecordDict

from fedwarm.faults import Fault, fault_of, faults_of, strikes
from fedwarm.flower.wire import from_records, to_records
from fedwarm.settings.config import General
from fedwarm.settings.kinds import FAULTS

EARLIER_AT_MOST = 16
earlier: OrderedDict[tuple[int, int], RecordDict] = OrderedDict()


def faulty(message: Message, context: Context, call_next: Callable[[Message, Context], Message]) -> Message:
    """Answer by `call_next`, and spoil the answer where its ticket is struck.

    Raises:
        Exception: what the kind of fault raises before any work, e.g. `InjectedError`.
        SettingError: a setting of the faults cannot be used.
    """
    kind = context.run_config.get("faults.kind", FAULTS.first)
    if kind == FAULTS.first or message.metadata.message_type.partition(".")[0] != "train":
        return call_next(message, context)
    faults = faults_of(context.run_config)
    fault, ticket, who = fault_of(faults), _ticket(message.content), (context.run_id, context.node_id)
    struck = strikes(faults, int(context.run_config.get("seed", General.seed)), ticket)
    if struck:
        fault.before(ticket)
    reply = call_next(message, context)
    if reply.has_error():
        return reply
    honest = reply.content
    if struck:
        reply.content = _spoilt(fault, honest, message.content, earlier.get(who))
    if fault.remembers:
        _remember(who, honest)
    return reply


def _ticket(content: RecordDict) -> str:
    facts = content.config_records.get("facts")
    return str(facts.get("ticket", "")) if facts is not None else ""


def _spoilt(fault: Fault, honest: RecordDict, sent: RecordDict, known: RecordDict | None) -> RecordDict:
    """The content that is sent instead of the honest one."""
    payload, before = from_records(honest), None if known is None else from_records(known)
    told = fault.spoil(payload, from_records(sent), before)
    return _garbled(fault, honest if told is payload else to_records(told))


def _garbled(fault: Fault, content: RecordDict) -> RecordDict:
    """The content with its first array's bytes as the fault has them; unchanged where it has no array."""
    arrays = dict(content.array_records["arrays"])
    for name, array in list(arrays.items())[:1]:
        arrays[name] = Array(array.dtype, array.shape, array.stype, fault.garble(array.data))
    return RecordDict({**content, "arrays": ArrayRecord(arrays)})


def _remember(who: tuple[int, int], content: RecordDict) -> None:
    """Keep a client's last honest reply, and forget the client that answered longest ago where there are too many."""
    earlier.pop(who, None)
    earlier[who] = content
    while len(earlier) > EARLIER_AT_MOST:
        earlier.popitem(last=False)
