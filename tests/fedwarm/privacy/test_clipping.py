"""Clip and noise."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from fedwarm.privacy.clipping import UpdateError, clip, noised, norm_of


@given(st.lists(st.floats(-1e100, 1e100), min_size=1, max_size=20), st.floats(1e-3, 1e3))
def test_clipping_keeps_the_direction_and_bounds_the_norm(numbers: list[float], limit: float) -> None:
    v = np.array(numbers)
    clipped = clip(v, limit)
    assert norm_of(clipped) <= limit * (1 + 1e-12)
    if norm_of(v) <= limit:
        assert np.array_equal(clipped, v) and clipped is not v
    else:
        np.testing.assert_allclose(clipped, v / norm_of(v) * limit, rtol=1e-12, atol=1e-300)


def test_zero_stays_zero_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not clip(np.zeros(3), 1.0).any()


@pytest.mark.parametrize(
    ("update", "message"),
    [
        ([1.0, np.nan, np.inf], "2 of the update's 3 numbers are NaN or infinity"),
        ([1e200, 1.0], "the update's norm overflows"),
    ],
)
def test_broken_updates_are_named(update: list[float], message: str) -> None:
    with pytest.raises(UpdateError, match=message):
        clip(np.array(update), 1.0)


def test_noise_has_the_scale_it_says() -> None:
    update = np.linspace(-1, 1, 20_000)
    noise = noised(update, 0.3, np.random.default_rng(0).bytes) - update
    assert stats.kstest(noise / 0.3, "norm").pvalue > 1e-3
    same = noised(update, 0.0)
    assert np.array_equal(same, update) and same is not update
