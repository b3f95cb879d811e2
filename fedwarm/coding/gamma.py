"""Positive integers <-> a byte string of constant length by Elias's gamma code (Elias, IEEE Trans. Information Theory 21, 1975).

A number of L bits is L - 1 zeros and its bits, most significant first: 2 L - 1 in all, 1 for the number 1. The codes of a message
stand behind one another, the rest of it is zero.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from fedwarm.coding.packing import CodeError


def code_bits(number: int) -> int:
    """Bits of one number's code: 2 floor(log2 number) + 1."""
    return 2 * number.bit_length() - 1


def pack(numbers: Iterable[int], size_bytes: int) -> bytes | None:
    """Numbers >= 1 as `size_bytes` bytes; None where their codes take more."""
    text = "".join(f"{number:0{code_bits(number)}b}" for number in numbers)
    if len(text) > 8 * size_bytes:
        return None
    return int(text.ljust(8 * size_bytes, "0") or "0", 2).to_bytes(size_bytes, "big")


def unpack(data: bytes, count: int, most: int) -> NDArray[np.int64]:
    """The `count` numbers (count,) of a byte string that `pack` wrote.

    Raises:
        CodeError: it ends within a number, a number is above `most`, or a bit behind the last one is set.
    """
    text, out, at = f"{int.from_bytes(data, 'big'):0{8 * len(data)}b}" if data else "", np.empty(count, np.int64), 0
    for i in range(count):
        first = text.find("1", at)
        end = 2 * first - at + 1
        if first < 0 or end > len(text):
            raise CodeError(f"{len(data)} bytes of code words end within number {i + 1} of {count}")
        if end - first > most.bit_length() or (number := int(text[first:end], 2)) > most:
            raise CodeError(f"number {i + 1} of {count} is more than {most}")
        out[i], at = number, end
    if "1" in text[at:]:
        raise CodeError("bits behind the last number are set")
    return out
