"""Orders: exact bytes by the formula, and nothing but orders."""

from __future__ import annotations

from math import ceil, log2

import numpy as np
import pytest

from fedwarm.coding.orders import order_bytes, pack_order, places, unpack_order
from fedwarm.coding.packing import CodeError


@pytest.mark.parametrize("count", [1, 2, 13, 1200, 12800, 20480, 65536, 65537, 200_000])
def test_an_order_comes_back_from_its_exact_bytes(count: int) -> None:
    order = np.random.default_rng(count).permutation(count)
    packed = pack_order(order)
    assert len(packed) == order_bytes(count) == ceil(count * ceil(log2(count)) / 8)
    assert np.array_equal(unpack_order(packed, count), order)


def test_bytes_of_a_small_cnn() -> None:
    assert [order_bytes(count) for count in (1200, 12800, 20480)] == [1650, 22400, 38400]


@pytest.mark.parametrize(
    ("order", "said"),
    [([0, 1, 1, 3, 4], "does not have each of them once"), ([0, 1, 2, 3, 7], "does not have each of them once")],
)
def test_what_is_no_order_is_refused(order: list[int], said: str) -> None:
    with pytest.raises(CodeError, match=said):
        unpack_order(pack_order(np.array(order)), 5)


def test_bytes_of_another_order_are_refused() -> None:
    packed = pack_order(np.arange(13))
    for wrong in (packed[:-1], packed + b"\0"):
        with pytest.raises(CodeError, match=f"{len(wrong)} bytes of an order; one of 13 indices takes 7"):
            unpack_order(wrong, 13)
    with pytest.raises(CodeError, match="bits behind the last index are set"):
        unpack_order(packed[:-1] + bytes([packed[-1] | 128]), 13)


def test_places_turn_an_order_round() -> None:
    assert places(np.array([2, 0, 3, 1])).tolist() == [1, 3, 0, 2]
