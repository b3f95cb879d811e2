"""Elias's gamma code in messages of constant length."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedwarm.coding.gamma import code_bits, pack, unpack
from fedwarm.coding.packing import CodeError

MOST = 1 << 20


def test_codes_by_hand() -> None:
    assert pack([1, 2, 3, 4, 9], 3) == bytes([0b10100110, 0b01000001, 0b00100000])
    assert [code_bits(n) for n in (1, 2, 3, 4, 7, 8, 1023, 1024)] == [1, 3, 3, 5, 5, 7, 19, 21]


@given(st.lists(st.integers(1, MOST), max_size=40), st.integers(0, 5))
def test_what_is_packed_is_unpacked(numbers: list[int], more: int) -> None:
    bits = sum(map(code_bits, numbers))
    size = -(-bits // 8) + more
    packed = pack(numbers, size)
    assert packed is not None and len(packed) == size
    assert unpack(packed, len(numbers), MOST).tolist() == numbers
    if bits > 8:
        assert pack(numbers, (bits - 1) // 8) is None, "there is no room"


@pytest.mark.parametrize(
    ("data", "count", "most", "said"),
    [
        (b"\x80", 2, 9, "end within number 2 of 2"),
        (b"\x00\x00", 1, 9, "end within number 1 of 1"),
        (b"\x28", 1, 4, "number 1 of 1 is more than 4"),
        (b"\x00\x00\x00\x01" + bytes(4), 1, 9, "more than 9"),
        (b"\x81", 1, 9, "bits behind the last number are set"),
        (b"", 1, 9, "end within number 1"),
    ],
)
def test_what_no_coder_writes_is_refused(data: bytes, count: int, most: int, said: str) -> None:
    with pytest.raises(CodeError, match=said):
        unpack(data, count, most)
