"""Packing: exact lengths, every width, and nothing but what was packed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedwarm.coding.packing import CodeError, mask_bytes, pack, pack_mask, packed_bytes, unpack, unpack_mask


@pytest.mark.parametrize(("count", "bits", "length"), [(100, 7, 88), (4, 7, 4), (8, 1, 1), (9, 1, 2), (3, 16, 6), (0, 5, 0)])
def test_lengths_are_exact(count: int, bits: int, length: int) -> None:
    assert packed_bytes(count, bits) == length == len(pack(np.zeros(count, np.uint16), bits))


@given(st.integers(1, 16), st.data())
def test_what_is_packed_comes_back(bits: int, data: st.DataObject) -> None:
    indices = np.array(data.draw(st.lists(st.integers(0, 2**bits - 1), max_size=60)), np.uint16)
    packed = pack(indices, bits)
    assert len(packed) == -(-indices.size * bits // 8)
    found = unpack(packed, indices.size, bits)
    assert found.dtype == np.uint16 and np.array_equal(found, indices)
    as_number = sum(int(i) << (j * bits) for j, i in enumerate(indices))
    assert int.from_bytes(packed, "little") == as_number, "index j fills the bits from j b on"


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(CodeError, match="do not fit in 3 bits"):
        pack(np.array([1, 8]), 3)
    with pytest.raises(CodeError, match="do not fit in 3 bits"):
        pack(np.array([-1, 2]), 3)
    for bits in (0, 17):
        with pytest.raises(CodeError, match="1 to 16"):
            pack(np.array([0]), bits)


def test_foreign_bytes_are_refused() -> None:
    with pytest.raises(CodeError, match="87 bytes of code words; 100 indices of 7 bits take 88"):
        unpack(bytes(87), 100, 7)
    with pytest.raises(CodeError, match="behind the last index"):
        unpack(b"\x00\x00\x00\x80", 4, 7)


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 65])
def test_a_mask_comes_back_and_is_what_indices_of_one_bit_are(count: int) -> None:
    mask = np.random.default_rng(count).random(count) < 0.5
    data = pack_mask(mask)
    assert len(data) == mask_bytes(count) and data == pack(mask.astype(np.uint16), 1)
    assert (unpack_mask(data, count) == mask).all()
    with pytest.raises(CodeError, match="bytes of a mask"):
        unpack_mask(data + b"\0", count)
    if count % 8:
        with pytest.raises(CodeError, match="behind a mask's last"):
            unpack_mask(data[:-1] + bytes([data[-1] | 128]), count)
