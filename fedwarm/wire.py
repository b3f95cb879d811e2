"""Payload <-> Flower records: the one file of the mathematics side that knows Flower's types.

A payload is what one side says to the other: arrays of one kind, metrics (numbers) and facts (names, lists, flags). Its size is
what Flower ships of it: `payload` counts the arrays' numbers, `wire` the serialised arrays with their headers.
"""

from __future__ import annotations

import copy
import math
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from numpy.typing import NDArray

from fedwarm.arrays import Arrays

Kind = Literal["none", "weights", "adapter"]
Fact = str | int | float | bool | list[str] | list[int]
MAGIC = b"\x93NUMPY\x01\x00"
KINDS = ("none", "weights", "adapter")


@dataclass
class Payload:
    """One message's content.

    Attributes:
        kind: what the arrays are; `none` where there are none.
        arrays: named numpy arrays.
        metrics: numbers, e.g. `num-examples`.
        facts: everything else; empty lists and texts do not travel.
    """

    kind: Kind = "none"
    arrays: Arrays = field(default_factory=dict)
    metrics: dict[str, int | float] = field(default_factory=dict)
    facts: dict[str, Fact] = field(default_factory=dict)

    def number(self, name: str) -> float:
        """A metric that must be there.

        Raises:
            PayloadError: it is not, or it is not finite.
        """
        if name not in self.metrics:
            raise PayloadError(f"metric {name!r} is missing")
        value = float(self.metrics[name])
        if not np.isfinite(value):
            raise PayloadError(f"metric {name!r} is {value}")
        return value

    def count(self, name: str, low: int = 0, high: int | None = None) -> int:
        """A metric that must be a whole number in a range.

        Raises:
            PayloadError: it is not.
        """
        value = self.number(name)
        if value != int(value) or value < low or (high is not None and value > high):
            raise PayloadError(f"metric {name!r} is {value:g}; it must be a whole number from {low} to {high or 'any'}")
        return int(value)

    def text(self, name: str) -> str:
        """A text fact, empty where it is missing."""
        return str(self.facts.get(name, ""))


class PayloadError(ValueError):
    """A message that does not hold what it must."""


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
        PayloadError: a record is missing, or an array is not plain numpy.
    """
    arrays, metrics, facts = content.get("arrays"), content.get("metrics"), content.get("facts")
    if not isinstance(arrays, ArrayRecord) or not isinstance(metrics, MetricRecord) or not isinstance(facts, ConfigRecord):
        raise PayloadError("a message must hold the records arrays, metrics and facts")
    kind = facts.get("kind", "none")
    if kind not in KINDS:
        raise PayloadError(f"unknown kind of payload {kind!r}")
    decoded = {name: _decode(name, array) for name, array in arrays.items()}
    numbers = {name: v for name, v in metrics.items() if isinstance(v, (int, float))}
    rest = {name: v for name, v in facts.items() if name != "kind"}
    return Payload(kind, decoded, numbers, rest)  # type: ignore[arg-type]


def _decode(name: str, array: Array) -> NDArray[np.generic]:
    """The numbers of a plain array: a read-only view where its header is complete and says what the record says.

    Raises:
        PayloadError: it is no numpy array, is cut short, or holds another shape or type than its record says.
    """
    try:
        decoded = _view(array)
        if decoded is None:
            decoded = array.numpy()
        wanted = (tuple(array.shape), np.dtype(array.dtype))
    except (TypeError, ValueError, EOFError, OSError, KeyError, zipfile.BadZipFile) as error:
        raise PayloadError(f"array {name!r} cannot be read: {error}") from error
    if not isinstance(decoded, np.ndarray) or (decoded.shape, decoded.dtype) != wanted:
        raise PayloadError(f"array {name!r} does not hold what its record says")
    return decoded


def _view(array: Array) -> NDArray[np.generic] | None:
    """The array's bytes as numbers without a copy, for version 1.0 of numpy's format in C order; else None."""
    dtype, data = np.dtype(array.dtype), array.data
    if array.stype != "numpy.ndarray" or dtype.hasobject or data[:8] != MAGIC:
        return None
    offset = len(MAGIC) + 2 + int.from_bytes(data[8:10], "little")
    said = f"'descr': '{dtype.str}', 'fortran_order': False, 'shape': {tuple(array.shape)}".encode()
    if len(data) != offset + math.prod(array.shape) * dtype.itemsize or said not in data[:offset]:
        return None
    return np.frombuffer(data, dtype=dtype, offset=offset).reshape(array.shape)


def size_of(content: RecordDict) -> Size:
    """The size of a message's arrays, without decoding them; an array of no numpy type counts as its bytes."""
    arrays = [array for record in content.array_records.values() for array in record.values()]
    return Size(sum(_payload_bytes(a) for a in arrays), sum(len(a.data) for a in arrays))


def _payload_bytes(array: Array) -> int:
    try:
        return min(len(array.data), math.prod(array.shape) * np.dtype(array.dtype).itemsize)
    except TypeError:
        return len(array.data)


def check_arrays(arrays: Mapping[str, NDArray[np.generic]], like: Mapping[str, NDArray[np.generic]]) -> None:
    """Refuse arrays that cannot be combined with `like`.

    Raises:
        PayloadError: missing or extra names, another shape or dtype, NaN or infinity; the message names the array.
    """
    if arrays.keys() != like.keys():
        raise PayloadError(f"arrays differ in their names: {sorted(arrays.keys() ^ like.keys())[:3]}")
    for name, array in arrays.items():
        if array.shape != like[name].shape or array.dtype != like[name].dtype:
            raise PayloadError(f"{name} is {array.dtype}{list(array.shape)}, expected {like[name].dtype}{list(like[name].shape)}")
        if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
            raise PayloadError(f"{name} holds NaN or infinity")
