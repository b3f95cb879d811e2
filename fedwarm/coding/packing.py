"""Masks, and indices of b bits <-> byte strings of exactly ceil(n / 8) and ceil(B b / 8) bytes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

MOST_BITS = 16


class CodeError(ValueError):
    """An update that cannot be encoded, or code words that no encoder wrote."""


def packed_bytes(count: int, bits: int) -> int:
    """Bytes of `count` indices of `bits` bits: ceil(count bits / 8)."""
    if not 1 <= bits <= MOST_BITS:
        raise CodeError(f"bits = {bits}; an index has 1 to {MOST_BITS}")
    return -(-count * bits // 8)


def pack(indices: NDArray[np.integer], bits: int) -> bytes:
    """Indices (B,) in [0, 2^bits) as bytes: index j fills bits j b .. j b + b - 1, least significant first; the rest is zero.

    Raises:
        CodeError: an index does not fit, or `bits` is not 1 to 16.
    """
    packed_bytes(0, bits)
    if indices.size and not 0 <= int(indices.min()) <= int(indices.max()) < 1 << bits:
        raise CodeError(f"indices from {indices.min()} to {indices.max()} do not fit in {bits} bits")
    planes = np.unpackbits(indices.astype("<u2").view(np.uint8).reshape(-1, 2), axis=1, bitorder="little")
    return np.packbits(planes[:, :bits], bitorder="little").tobytes()


def unpack(data: bytes, count: int, bits: int) -> NDArray[np.uint16]:
    """The `count` indices (B,) of a byte string that `pack` wrote.

    Raises:
        CodeError: the length is not exactly ceil(count bits / 8), or a bit behind the last index is set.
    """
    if len(data) != packed_bytes(count, bits):
        raise CodeError(f"{len(data)} bytes of code words; {count} indices of {bits} bits take {packed_bytes(count, bits)}")
    flat = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")
    if flat[count * bits :].any():
        raise CodeError("bits behind the last index are set")
    planes = np.zeros((count, MOST_BITS), np.uint8)
    planes[:, :bits] = flat[: count * bits].reshape(count, bits)
    return np.packbits(planes, axis=1, bitorder="little").view("<u2").reshape(count).astype(np.uint16)


def mask_bytes(count: int) -> int:
    """Bytes of a mask of `count` bits: ceil(count / 8)."""
    return -(-count // 8)


def pack_mask(mask: NDArray[np.bool_]) -> bytes:
    """A mask (n,) as bytes, the first bit the least significant; the rest is zero."""
    return np.packbits(mask, bitorder="little").tobytes()


def unpack_mask(data: bytes, count: int) -> NDArray[np.bool_]:
    """The mask (count,) of a byte string that `pack_mask` wrote.

    Raises:
        CodeError: the length is not exactly ceil(count / 8), or a bit behind the last is set.
    """
    if len(data) != mask_bytes(count):
        raise CodeError(f"{len(data)} bytes of a mask; {count} bits take {mask_bytes(count)}")
    bits = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")
    if bits[count:].any():
        raise CodeError("bits behind a mask's last are set")
    return bits[:count].astype(np.bool_)
