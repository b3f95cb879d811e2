"""Cosine distances and temperature against closed forms and a plain product."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fedwarm.core import cosines
from fedwarm.core.arrays import Arrays
from fedwarm.core.cosines import cosine_distances, products, temperature
from fedwarm.core.norms import Floats

DRAWS = np.random.default_rng(0)


def distances(updates: Floats) -> Floats:
    start: Arrays = {"w": np.zeros(updates.shape[1])}
    return cosine_distances(products([{"w": update} for update in updates], start, ["w"]))


@pytest.mark.parametrize(
    ("updates", "expected"),
    [
        (np.tile([[1.0, -2.0, 0.1]], (4, 1)), 0.0),
        (np.eye(6), 0.5),
        (np.repeat([[1.0, 2.0], [-1.0, -2.0]], 5, axis=0), math.sqrt(10 / 18)),
        (np.array([[3.0], [-0.1]]), 1.0),
    ],
    ids=["equal", "orthogonal", "halves", "antipodal"],
)
def test_closed_forms(updates: Floats, expected: float) -> None:
    assert temperature(distances(updates)) == pytest.approx(expected, abs=1e-12)


def test_of_fewer_than_two_there_is_none() -> None:
    assert temperature(distances(np.ones((1, 3)))) is None and temperature(np.zeros((0, 0))) is None


def test_lengths_do_not_matter() -> None:
    updates = DRAWS.normal(size=(5, 40))
    scaled = updates * np.array([[1e-9], [3.0], [1.0], [7e8], [0.1]])
    assert np.allclose(distances(updates), distances(scaled), rtol=0, atol=2e-12)
    assert temperature(distances(updates)) == pytest.approx(temperature(distances(scaled)), abs=1e-11)


def test_an_update_that_is_zero_is_at_right_angles_to_all() -> None:
    found = distances(np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 0.0], [2.0, 0.0]]))
    assert found.tolist() == [[0, 1, 1, 1], [1, 0, 1, 0], [1, 1, 0, 1], [1, 0, 1, 0]]


def test_products_in_blocks_are_those_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several arrays, from a start, by blocks of 4,096 coordinates; those of other names do not count."""
    monkeypatch.setattr(cosines, "AT_ONCE", 1)
    shapes = {"a": (90, 100), "b": (3,), "counter": (2,)}
    start: Arrays = {name: DRAWS.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    replies: list[Arrays] = [{n: DRAWS.normal(size=s).astype(np.float32) for n, s in shapes.items()} for _ in range(4)]
    moves = [np.concatenate([(r[n].astype(np.float64) - start[n]).reshape(-1) for n in ("a", "b")]) for r in replies]
    found = products(replies, start, ["b", "a"])
    assert np.allclose(found, np.stack(moves) @ np.stack(moves).T, rtol=1e-12) and np.array_equal(found, found.T)


def test_what_overflows_is_no_nan() -> None:
    found = distances(np.array([[1e200, 0.0], [0.0, 1.0], [1.0, 1.0]]))
    assert np.isfinite(found).all() and found[0, 1] == 1
