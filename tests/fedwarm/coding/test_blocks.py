"""Blocks: they tile the update, shares sum to 1, and caps are what the account is told."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedwarm.coding.blocks import Blocks, even, fixed_size, kl_adaptive, per_tensor
from fedwarm.coding.packing import CodeError
from fedwarm.coding.rotation import rotate
from fedwarm.coding.streams import Stream


def tiles(blocks: Blocks, total: int) -> None:
    assert blocks.total == total and min(blocks.sizes) >= 1 and blocks.starts[-1] == total
    assert sum(blocks.shares) == pytest.approx(1) and min(blocks.shares) > 0


@given(st.integers(1, 3000), st.integers(1, 400))
def test_fixed_and_even_blocks_tile(total: int, number: int) -> None:
    cut = fixed_size(total, number)
    tiles(cut, total)
    assert set(cut.sizes[:-1]) <= {number} and cut.sizes[-1] <= number and len(cut) == -(-total // number)
    same = even(total, number)
    tiles(same, total)
    assert len(same) == min(number, total) and max(same.sizes) - min(same.sizes) <= 1


def test_a_block_a_tensor() -> None:
    cut = per_tensor([6, 0, 2])
    assert cut.sizes == (6, 2) and cut.shares == (0.75, 0.25)


@given(st.integers(1, 500), st.integers(1, 40), st.integers(0, 10**6))
def test_adaptive_blocks_tile(total: int, count: int, seed: int) -> None:
    cut = kl_adaptive(np.random.default_rng(seed).standard_cauchy(total), count)
    tiles(cut, total)
    assert len(cut) <= count


def test_adaptive_blocks_share_the_energy() -> None:
    profile = np.concatenate([np.full(100, 3.0), np.full(900, 0.1)])
    cut = kl_adaptive(profile, 10)
    assert len(cut) == 10
    assert max(cut.shares) < 1.2 * min(cut.shares)
    assert cut.sizes[0] < cut.sizes[-1] / 5, "where the energy is, blocks are small"
    assert len(kl_adaptive(np.zeros(20), 4)) == 4, "a model that stood still is cut evenly"
    with pytest.raises(CodeError, match="NaN"):
        kl_adaptive(np.array([1.0, np.nan]), 1)


def test_caps_follow_the_formula() -> None:
    cut = even(1000, 10)
    np.testing.assert_allclose(cut.caps(9.0), 0.9 * (1 + 2 * np.sqrt(2 / 100)), rtol=1e-15)
    assert even(1000, 1).caps(9.0).tolist() == [9.0], "one block cannot hold more than all"
    assert fixed_size(3, 1).caps(1.0).max() <= 1.0


def test_rotated_vectors_keep_nearly_all_under_the_caps() -> None:
    """Two standard deviations: few blocks are clipped, whatever the vector; here one that sits in a single number."""
    cut, kept = even(1024, 16), []
    for number, v in enumerate((np.eye(1024)[3], np.repeat([1.0, 0.0], 512) / np.sqrt(512), np.r_[1.0:1025] / 18925.0)):
        for trial in range(20):
            squares = cut.squares(rotate(v, "hadamard", Stream(0, trial, number).rotation()))
            kept.append(squares / float(v @ v) <= cut.caps(1.0))
    assert np.mean(kept) > 0.93


def test_helpers_work_block_by_block() -> None:
    cut = fixed_size(5, 2)
    assert cut.squares(np.array([1.0, 2, 3, 4, 5])).tolist() == [5.0, 25.0, 25.0]
    assert cut.spread(np.array([1.0, 2, 3])).tolist() == [1, 1, 2, 2, 3]


def test_empty_blocks_are_refused() -> None:
    for bad in (lambda: fixed_size(0, 3), lambda: fixed_size(3, 0), lambda: per_tensor([0]), lambda: Blocks((0,), (1.0,))):
        with pytest.raises(CodeError):
            bad()
