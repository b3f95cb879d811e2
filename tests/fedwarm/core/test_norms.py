"""Lengths of updates, blocks of many replies, and which update is too large."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedwarm.core.arrays import Arrays
from fedwarm.core.norms import FLOOR, blocks, reference_norm, too_large


@pytest.mark.parametrize("size", [1, 5, 12, 13])
def test_blocks_are_all_of_an_array_in_order(size: int) -> None:
    replies: list[Arrays] = [{"w": np.arange(12.0).reshape(3, 4) + 100 * i} for i in range(5)]
    parts = list(blocks(replies, "w", size))
    assert max(part.shape[1] for part in parts) == min(size, 12)
    np.testing.assert_array_equal(np.hstack(parts), [reply["w"].reshape(-1) for reply in replies])


def test_a_model_of_zeros_has_a_length_and_counters_have_none() -> None:
    zeros: Arrays = {"w": np.zeros((10, 10), np.float32), "n": np.full(7, 10**6)}
    assert reference_norm(zeros) == pytest.approx(10 * FLOOR)
    assert reference_norm({"w": np.array([3.0, 4.0])}) == 5.0


ORDERS = st.floats(0, 2.99)


@settings(max_examples=300)
@given(st.floats(-8, 1.9), st.lists(ORDERS, min_size=1, max_size=20), ORDERS)
def test_honest_updates_pass_and_a_million_times_larger_ones_do_not(level: float, spread: list[float], own: float) -> None:
    """Orders of magnitude: training at any stage, clients within a factor of 1000 of each other, a model of norm 1."""
    accepted = [min(99.0, 10 ** (level + s - 3)) for s in spread]
    honest = min(99.0, 10 ** (level + own - 3))
    assert not too_large(honest, 1.0, accepted, 100.0)
    assert too_large(1e6 * honest, 1.0, accepted, 100.0)


@settings(max_examples=200)
@given(st.floats(1.1e-4, 99), st.floats(1e-6, 1e6))
def test_in_the_first_round_the_model_alone_is_the_measure(share: float, model: float) -> None:
    for accepted in ([], [0.0, 0.0]):
        assert not too_large(share * model, model, accepted, 100.0)
        assert too_large(1e6 * share * model, model, accepted, 100.0)


def test_what_is_not_finite_is_too_large_and_no_limit_refuses_nothing() -> None:
    assert too_large(float("inf"), 1.0, [], 100.0) and too_large(float("nan"), 1.0, [], 100.0)
    assert not too_large(1e30, 1.0, [1.0], 0.0)
