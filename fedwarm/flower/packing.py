"""Small arrays of a message as one, and small messages as one record, for the way between real nodes.

Flower sends each array as two objects and each record as one, each by an HTTP request of its own of 1 to 2 kB and a round trip: a
message of a hundred small arrays weighs twice as much on the line as in memory. Here they travel joined and come out byte for
byte as they went in, so that nothing else of a run sees it. A node says what it unpacks when it says who it is; others get
messages as Flower sends them.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator
from typing import Any

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict

from fedwarm.flower.wire import RECORDS, payload_bytes

STYPE, NAME, WHOLE = "fedwarm.packed", "packed", "fedwarm.whole"
SIGN, ARRAYS_ALONE, RECORDS_TOO = "packs", 1, 2
"""Under this name a node tells, and a message, what is unpacked there: joined arrays, or messages of one record as well."""
SMALL_BYTES, WHOLE_BYTES, TABLE_BYTES_AT_MOST, LENGTH_BYTES = 2**18, 2**20, 2**22, 4
WRONG = (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError, zlib.error, MemoryError)
Packs = dict[tuple[tuple[str, int], ...], tuple[ArrayRecord, Array]]
"""Packs that were made already, by the names of their arrays and the identities of their bytes, which live as long."""


def pack(content: RecordDict, known: Packs | None = None, level: int = ARRAYS_ALONE) -> RecordDict:
    """The content with its small arrays joined; itself where that would join none.

    Args:
        content: of a message.
        known: filled with what is packed, and used: a stage that sends the same arrays to many clients packs them once.
        level: what is unpacked at the other end. RECORDS_TOO: where all arrays are small, and together no more than a piece is
            on the line (1 MiB), they and the metrics are told as one value of the facts, so that three objects are left of seven.
    """
    arrays = content.get("arrays")
    if not isinstance(arrays, ArrayRecord):
        return content
    if level >= RECORDS_TOO and _fits(content, arrays):
        data, metrics = _made(arrays, {**arrays}, known).data, json.dumps(dict(content.metric_records["metrics"]))
        return RecordDict({"facts": ConfigRecord({**content.config_records["facts"], WHOLE: [data, metrics.encode()]})})
    if NAME in arrays:
        return content
    small = {name: array for name, array in arrays.items() if len(array.data) <= SMALL_BYTES}
    if len(small) < 2:
        return content
    apart = {name: array for name, array in arrays.items() if name not in small}
    return RecordDict({**content, "arrays": ArrayRecord({NAME: _made(arrays, small, known), **apart})})


def _fits(content: RecordDict, arrays: ArrayRecord) -> bool:
    """Whether a message can be one record: it is like ours, and its arrays are small, and together no more than a piece."""
    sorts = [type(content.get(name)) for name in RECORDS]
    sizes = [len(array.data) for array in arrays.values()]
    ours = set(content) == set(RECORDS) and sorts == [ArrayRecord, MetricRecord, ConfigRecord] and WHOLE not in content["facts"]
    return ours and max(sizes, default=0) <= SMALL_BYTES and sum(sizes) <= WHOLE_BYTES


def _made(arrays: ArrayRecord, small: dict[str, Array], known: Packs | None) -> Array:
    packs: Packs = {} if known is None else known
    key = tuple((name, id(array.data)) for name, array in arrays.items())  # records hold Arrays of their own
    if key not in packs:
        packs[key] = (arrays, _joined(arrays, small))
    return packs[key][1]


def _joined(arrays: ArrayRecord, small: dict[str, Array]) -> Array:
    """A table of all arrays in their order, and the bytes of the small ones, whose headers stand in the table."""
    rows: list[list[object]] = []
    parts: list[memoryview] = []
    for name, array in arrays.items():
        if name not in small:
            rows.append([name])
            continue
        head = len(array.data) - payload_bytes(array)
        rows.append([name, array.dtype, [*array.shape], array.stype, array.data[:head].decode("latin1"), len(array.data) - head])
        parts.append(memoryview(array.data)[head:])
    table = zlib.compress(json.dumps(rows, separators=(",", ":")).encode())
    data = b"".join([len(table).to_bytes(LENGTH_BYTES, "big"), table, *parts])
    return Array("uint8", (len(data),), STYPE, data)


def unpack(content: RecordDict) -> RecordDict:
    """The content as it was; itself where nothing is packed, or not as `pack` does it."""
    arrays, facts = content.get("arrays"), content.get("facts")
    if isinstance(facts, ConfigRecord) and WHOLE in facts and len(content) == 1:
        return _apart(content, {**facts})
    if not isinstance(arrays, ArrayRecord) or NAME not in arrays or arrays[NAME].stype != STYPE:
        return content
    apart = {name: array for name, array in arrays.items() if name != NAME}
    try:
        told = dict(_parted(arrays[NAME].data, apart))
    except WRONG:
        return content
    return RecordDict({**content, "arrays": ArrayRecord(told)})


def _apart(content: RecordDict, facts: dict[str, Any]) -> RecordDict:
    """Three records out of one."""
    try:
        arrays, metrics = facts.pop(WHOLE)
        told = ArrayRecord(dict(_parted(arrays, {})))
        return RecordDict({"arrays": told, "metrics": MetricRecord(json.loads(metrics)), "facts": ConfigRecord(facts)})
    except WRONG:
        return content


def _parted(data: bytes, apart: dict[str, Array]) -> Iterator[tuple[str, Array]]:
    """The arrays of a pack and those beside it.

    Raises:
        ValueError: it is not whole, or tells of other arrays than there are.
    """
    at = LENGTH_BYTES + int.from_bytes(data[:LENGTH_BYTES], "big")
    reader, left, seen = zlib.decompressobj(), dict(apart), set[str]()
    rows = json.loads(reader.decompress(data[LENGTH_BYTES:at], TABLE_BYTES_AT_MOST))
    for name, *told in rows:
        if not isinstance(name, str) or name in seen:
            raise ValueError("two arrays of one name")
        seen.add(name)
        if not told:
            yield name, left.pop(name)
            continue
        dtype, shape, stype, head, size = told
        if not (0 <= size <= len(data) - at) or not all(type(n) is int for n in [*shape, size]):
            raise ValueError("it is cut short")
        yield name, Array(str(dtype), tuple(shape), str(stype), head.encode("latin1") + data[at : at + size])
        at += size
    if left or at != len(data):
        raise ValueError("it holds more than it tells")


def signed(content: RecordDict, level: int = ARRAYS_ALONE) -> RecordDict:
    """The content, which says how its answer may be packed."""
    return RecordDict({**content, "facts": ConfigRecord({**content.config_records["facts"], SIGN: level})})


def packing(message: Message, context: Context, call_next: Callable[[Message, Context], Message]) -> Message:
    """A Flower mod: a message that is signed is unpacked, and its answer packed."""
    facts = message.content.config_records.get("facts")
    if facts is None or SIGN not in facts:
        return call_next(message, context)
    level = facts.pop(SIGN)
    message.content = unpack(message.content)
    reply = call_next(message, context)
    if reply.has_content():
        reply.content = pack(reply.content, level=level if isinstance(level, int) else ARRAYS_ALONE)
    return reply
