"""Arrays beside a model come apart as they were joined."""

from __future__ import annotations

import numpy as np

from fedwarm.core.told import joined, split


def test_what_is_joined_comes_apart() -> None:
    model, one, two = {"a.b": np.ones(2)}, {"a.b": np.zeros(2)}, {"a.b": np.full(2, 3.0)}
    both = joined(joined(model, one, "one"), two, "two")
    assert list(both) == ["a.b", "one/a.b", "two/a.b"]
    rest, found = split(both, "one")
    assert found == one and split(rest, "two") == (model, two)


def test_nothing_told_is_nothing_found() -> None:
    model = {"a": np.ones(1)}
    assert joined(model, {}, "one") == model and split(model, "one") == (model, {})
