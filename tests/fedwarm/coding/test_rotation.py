"""Rotations: against the matrix written out, and back to where they came from."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import hadamard as matrix

from fedwarm.coding.packing import CodeError
from fedwarm.coding.rotation import KINDS, hadamard, padded, restore, rotate
from fedwarm.coding.streams import Stream, signs

KEY = Stream(1, 2, 3).rotation()
DRAWS = np.random.default_rng(0)


@pytest.mark.parametrize("n", [1, 2, 8, 256])
def test_the_transform_is_the_matrix(n: int) -> None:
    x = DRAWS.normal(size=n)
    np.testing.assert_allclose(hadamard(x.copy()), matrix(n) @ x / np.sqrt(n), atol=1e-13)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [1, 7, 64, 300])
def test_rotations_keep_norms_and_come_back(kind: str, size: int) -> None:
    v, w = DRAWS.normal(size=(2, size))
    there = rotate(v, kind, KEY)
    assert there.shape == (padded(size, kind),)
    assert there @ rotate(w, kind, KEY) == pytest.approx(v @ w, rel=1e-12, abs=1e-12)
    np.testing.assert_allclose(restore(there, kind, KEY, size), v, atol=1e-12)


def test_the_padded_transform_written_out() -> None:
    v = DRAWS.normal(size=5)
    wanted = matrix(8) @ np.r_[v * signs(KEY, 8)[:5], 0, 0, 0] / np.sqrt(8)
    np.testing.assert_allclose(rotate(v, "hadamard", KEY), wanted, atol=1e-14)


def test_inputs_are_left_alone() -> None:
    v = DRAWS.normal(size=64)
    before = v.copy()
    for kind in KINDS:
        restore(rotate(v, kind, KEY), kind, KEY, 64)
        there = v.copy()
        restore(there, kind, KEY, 64)
        assert np.array_equal(v, before) and np.array_equal(there, before)


def test_haar_rotations_are_uniform_on_the_sphere() -> None:
    """First number of a rotated unit vector: mean 0, square 1/d, fourth power 3 / (d (d + 2)), within 4 standard errors."""
    first = np.array([rotate(np.eye(6)[0], "qr", Stream(0, trial, 0).rotation())[0] for trial in range(2000)])
    for power, wanted in ((1, 0.0), (2, 1 / 6), (4, 3 / 48)):
        values = first**power
        assert abs(values.mean() - wanted) < 4 * values.std() / np.sqrt(values.size)


def test_what_cannot_be_rotated_is_refused() -> None:
    with pytest.raises(CodeError, match="choose one of none, hadamard, qr"):
        padded(3, "spin")
    with pytest.raises(CodeError, match="choose hadamard"):
        padded(5000, "qr")
    with pytest.raises(CodeError, match="power of two"):
        hadamard(np.zeros(6))
