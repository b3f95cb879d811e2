"""Arrays beside a model come apart as they were joined."""

from __future__ import annotations

import numpy as np

from fedwarm.core.told import joined, numbered, split


def test_what_is_joined_comes_apart() -> None:
    model, one, two = {"a.b": np.ones(2)}, {"a.b": np.zeros(2)}, {"a.b": np.full(2, 3.0)}
    both = joined(joined(model, one, "one"), two, "two")
    assert list(both) == ["a.b", "one/a.b", "two/a.b"]
    rest, found = split(both, "one")
    assert found == one and split(rest, "two") == (model, two)


def test_nothing_told_is_nothing_found() -> None:
    model = {"a": np.ones(1)}
    assert joined(model, {}, "one") == model and split(model, "one") == (model, {})


def test_numbered_parts_are_found_in_their_order() -> None:
    two, ten = {"a": np.ones(1)}, {"a": np.zeros(1)}
    both = joined(joined({"w": np.ones(1), "part/a": np.ones(1), "part-x/a": np.ones(1)}, ten, "part-10"), two, "part-2")
    assert numbered(both, "part") == {2: two, 10: ten} and list(numbered(both, "part")) == [2, 10]
    assert numbered(both, "other") == {}
