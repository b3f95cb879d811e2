"""A server's step along a mean update: whole and without momentum it is the mean itself, else v and w follow their recursion."""

from __future__ import annotations

import numpy as np

from fedwarm.core.steps import stepped


def test_a_whole_step_without_momentum_is_the_mean_itself() -> None:
    end = {"w": np.ones(3, np.float32)}
    after, speed = stepped({"w": np.zeros(3, np.float32)}, end, 1.0)
    assert after is end and speed == {}


def test_steps_follow_the_recursion_in_the_dtype_of_the_mean() -> None:
    w, speed = {"w": np.float32([1.0, -2.0]), "n": np.array([3])}, {}
    v, x = np.zeros(2), np.array([1.0, -2.0])
    for end in (2.0, 0.5, -1.0):
        w, speed = stepped(w, {"w": np.full(2, end, np.float32), "n": np.array([7])}, 0.5, 0.9, speed)
        v = 0.9 * v + (end - x)
        x = x + 0.5 * v
        assert np.allclose(w["w"], x, atol=1e-6) and w["w"].dtype == np.float32 and w["n"] == 7
    assert speed["w"].dtype == np.float64 and np.allclose(speed["w"], v, atol=1e-6) and list(speed) == ["w"]
    assert stepped(w, w, 0.5)[1] == {}
