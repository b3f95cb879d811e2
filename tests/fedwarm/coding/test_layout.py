"""Layouts: one order on both sides, nothing but the named floating arrays, and a sum in float64."""

from __future__ import annotations

import numpy as np
import pytest

from fedwarm.coding.layout import Layout
from fedwarm.coding.packing import CodeError
from fedwarm.core.arrays import Arrays

ARRAYS: Arrays = {
    "b": np.arange(6, dtype=np.float32).reshape(2, 3),
    "a": np.array([10.0, 11.0], np.float32),
    "steps": np.array(3),
    "bn.running_mean": np.array([5.0], np.float32),
    "scale": np.array(7.0, np.float32),
}


def test_the_order_is_the_names_and_counters_stay_out() -> None:
    layout = Layout.of(ARRAYS)
    assert [name for name, _ in layout.entries] == ["a", "b", "bn.running_mean", "scale"]
    assert layout == Layout.of(dict(reversed(ARRAYS.items())))
    chosen = Layout.of(ARRAYS, ["b", "a", "steps", "nowhere"])
    assert chosen.sizes == (2, 6) and chosen.total == 8
    assert chosen.flatten(ARRAYS).tolist() == [10, 11, 0, 1, 2, 3, 4, 5]


def test_steps_move_what_is_in_the_layout_only() -> None:
    layout = Layout.of(ARRAYS, ["a", "b"])
    moved = layout.moved(ARRAYS, np.full(8, 0.5))
    assert np.array_equal(layout.difference(moved, ARRAYS), np.full(8, 0.5))
    assert moved["b"].dtype == np.float32 and moved["b"].shape == (2, 3)
    assert moved["steps"] is ARRAYS["steps"] and moved["bn.running_mean"] is ARRAYS["bn.running_mean"]
    assert ARRAYS["a"].tolist() == [10.0, 11.0]
    assert layout.flatten(layout.moved(ARRAYS, np.zeros(8))).tobytes() == layout.flatten(ARRAYS).tobytes()


def test_differences_are_taken_in_float64() -> None:
    layout = Layout.of({"w": np.float32([1.0])})
    after, before = {"w": np.array([1 + 2**-23], np.float32)}, {"w": np.array([-(2.0**-24)], np.float32)}
    assert layout.difference(after, before)[0] == 1 + 2**-23 + 2**-24


def test_other_arrays_are_refused() -> None:
    layout = Layout.of(ARRAYS, ["a", "b"])
    with pytest.raises(CodeError, match="'b' is missing"):
        layout.flatten({"a": ARRAYS["a"]})
    with pytest.raises(CodeError, match=r"'a' is \[3\]; the layout has \[2\]"):
        layout.flatten({**ARRAYS, "a": np.zeros(3, np.float32)})
    with pytest.raises(CodeError, match=r"the layout has \[8\]"):
        layout.moved(ARRAYS, np.zeros(7))


def test_an_empty_layout_has_an_empty_vector() -> None:
    assert Layout.of({"steps": np.array(3)}).flatten(ARRAYS).shape == (0,)
