"""Orders of n things, the least first: packed in exactly ceil(n ceil(log2 n) / 8) bytes, and the place that each thing has."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedwarm.coding.packing import MOST_BITS, CodeError, pack, packed_bytes, unpack

Order = NDArray[np.int64]


def order_bytes(count: int) -> int:
    """Bytes of an order of so many things: ceil(n ceil(log2 n) / 8)."""
    return sum(packed_bytes(count, bits) for _, bits in _parts(count))


def pack_order(order: Order) -> bytes:
    """An order (n,) as bytes: the lowest 16 bits of all its indices, then the bits above."""
    return b"".join(pack((order >> start) & ((1 << bits) - 1), bits) for start, bits in _parts(order.size))


def unpack_order(data: bytes, count: int) -> Order:
    """The order (n,) of a byte string that `pack_order` wrote.

    Raises:
        CodeError: it has another length, or some index stands in it twice or is out of range.
    """
    if len(data) != order_bytes(count):
        raise CodeError(f"{len(data)} bytes of an order; one of {count} indices takes {order_bytes(count)}")
    order, at = np.zeros(count, np.int64), 0
    for start, bits in _parts(count):
        size = packed_bytes(count, bits)
        order |= unpack(data[at : at + size], count, bits).astype(np.int64) << start
        at += size
    if not np.array_equal(np.sort(order), np.arange(count)):
        raise CodeError(f"an order of {count} indices does not have each of them once")
    return order


def places(order: Order) -> Order:
    """The place of each thing (n,) in an order (n,), from 0."""
    found = np.empty_like(order)
    found[order] = np.arange(order.size)
    return found


def _parts(count: int) -> list[tuple[int, int]]:
    """The bits of an index in pieces that the packer takes: (first bit, how many)."""
    bits = (count - 1).bit_length()
    return [(start, min(MOST_BITS, bits - start)) for start in range(0, bits, MOST_BITS)]
