"""Payload <-> Flower records: the one file of the mathematics side that knows Flower's types.

A payload is what one side says to the other: arrays of one kind, metrics (numbers) and facts (names, lists, flags). Its size is
what Flower ships of it: `payload` counts the arrays' numbers, `wire` the serialised arrays with their headers.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from numpy.typing import NDArray

from fedwarm.core.payload import KINDS, Payload, PayloadError, short

MAGIC = b"\x93NUMPY\x01\x00"
RECORDS = ("arrays", "metrics", "facts")
SCALARS = (np.bool_, np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64, np.float16, np.float32,
           np.float64, np.complex64, np.complex128)  # fmt: skip
DTYPES = {np.dtype(kind).name: np.dtype(kind) for kind in SCALARS}
DIMENSIONS_AT_MOST = 32
HEADER_BYTES_AT_MOST = 1024
UNUSABLE = 2405  # an error code of this app's own: Flower's end below 100


@dataclass(frozen=True)
class Size:
    """Bytes of one message: `payload` the numbers alone, `wire` with Flower's array headers."""

    payload_bytes: int = 0
    wire_bytes: int = 0


Encoded = dict[int, tuple[NDArray[np.generic], Array]]


def to_records(payload: Payload, encoded: Encoded | None = None) -> RecordDict:
    """A fresh RecordDict of the payload.

    Args:
        payload: what to say.
        encoded: filled with the arrays' encodings, by identity, and used for arrays that are in it already: a stage that sends
            the same arrays to many clients encodes them once.
    """
    known: Encoded = {} if encoded is None else encoded
    for array in payload.arrays.values():
        if id(array) not in known:
            known[id(array)] = (array, Array(np.asarray(array, order="C")))
    facts = {n: copy.copy(v) for n, v in payload.facts.items() if v not in ("", [])}
    metrics = {name: float(v) if isinstance(v, (float, np.floating)) else int(v) for name, v in payload.metrics.items()}
    return RecordDict(
        {
            "arrays": ArrayRecord({name: known[id(a)][1] for name, a in payload.arrays.items()}),
            "metrics": MetricRecord(dict(metrics)),
            "facts": ConfigRecord({"kind": payload.kind, **facts}),
        }
    )


def from_records(content: RecordDict) -> Payload:
    """The payload of a message.

    Raises:
        PayloadError: a record is missing or one too many, an array is not plain numpy, or a metric or fact is of no known type.
    """
    arrays, metrics, told = (content.get(name) for name in RECORDS)
    sorts = isinstance(arrays, ArrayRecord) and isinstance(metrics, MetricRecord) and isinstance(told, ConfigRecord)
    if set(content) != set(RECORDS) or not sorts:
        raise PayloadError(f"a message must hold the records {', '.join(RECORDS)}, and no other")
    assert isinstance(arrays, ArrayRecord) and isinstance(metrics, MetricRecord) and isinstance(told, ConfigRecord)
    facts = dict(told)
    kind = facts.pop("kind", "none")
    if kind not in KINDS:
        raise PayloadError(f"unknown kind of payload {short(kind)}")
    for name, fact in facts.items():
        if not all(isinstance(v, str) or _number(v) for v in (fact if isinstance(fact, list) else [fact])):
            raise PayloadError(f"fact {short(name)} must be of texts or of numbers of 64 bits")
    for name, value in metrics.items():
        if not _number(value):
            raise PayloadError(f"metric {short(name)} must be a number of 64 bits")
    decoded = {name: _decode(name, array) for name, array in arrays.items()}
    return Payload(kind, decoded, dict(metrics), facts)  # type: ignore[arg-type]


def _number(value: object) -> bool:
    return isinstance(value, float) or (isinstance(value, int) and abs(value) < 2**64)


def _decode(name: str, array: Array) -> NDArray[np.generic]:
    """The numbers of a plain array, a read-only view: version 1.0 of numpy's format, with the header that the record asks for.

    The header is compared and never parsed: numpy's own reader evaluates it, allocates what it asks for, and fails in many ways.

    Raises:
        PayloadError: it is no numpy array of a type in DTYPES, is cut short, or holds another shape or type than its record says.
    """
    dtype, shape, data = DTYPES.get(array.dtype), array.shape, array.data
    if array.stype != "numpy.ndarray" or dtype is None:
        raise PayloadError(f"array {short(name)} cannot be read: {short(array.stype)} of {short(array.dtype)}")
    size_bytes = _size_bytes(array)
    offset = len(MAGIC) + 2 + int.from_bytes(data[len(MAGIC) : len(MAGIC) + 2], "little")
    if data[: len(MAGIC)] != MAGIC or size_bytes is None or offset > HEADER_BYTES_AT_MOST or len(data) != offset + size_bytes:
        raise PayloadError(f"array {short(name)} cannot be read: {len(data)} bytes are not {array.dtype}{short(list(shape))}")
    header = data[len(MAGIC) + 2 : offset].rstrip(b" \n")
    for fortran in (False, True):
        if header == f"{{'descr': {dtype.str!r}, 'fortran_order': {fortran}, 'shape': {shape!r}, }}".encode():
            numbers: NDArray[np.generic] = np.frombuffer(data, dtype=dtype, offset=offset)
            return numbers.reshape(shape, order="F" if fortran else "C")
    raise PayloadError(f"array {short(name)} does not hold what its record says")


def _size_bytes(array: Array) -> int | None:
    """The bytes of the numbers that the record of an array promises; None where it cannot be an array."""
    dtype, shape = DTYPES.get(array.dtype), array.shape
    if dtype is None or len(shape) > DIMENSIONS_AT_MOST or any(n < 0 for n in shape):
        return None
    return math.prod(shape) * dtype.itemsize


def size_of(content: RecordDict) -> Size:
    """The size of a message's arrays, without decoding them; an array of no numpy type counts as its bytes.

    Flower's view `array_records` is not used: it would tie the message to itself, and its arrays would wait for the collector.
    """
    arrays = [array for record in content.values() if isinstance(record, ArrayRecord) for array in record.values()]
    return Size(sum(payload_bytes(a) for a in arrays), sum(len(a.data) for a in arrays))


def payload_bytes(array: Array) -> int:
    """Bytes of an array's numbers; all of one whose type is none of numpy's."""
    size_bytes = _size_bytes(array)
    return len(array.data) if size_bytes is None else min(len(array.data), size_bytes)


def unusable(message: Message, reason: str) -> Message:
    """A client's answer that it cannot use the settings or its data, and why."""
    return Message(Error(code=UNUSABLE, reason=reason), reply_to=message)


def is_unusable(reply: Message) -> bool:
    """Whether a reply says that a client cannot use the settings or its data."""
    return reply.has_error() and reply.error.code == UNUSABLE
