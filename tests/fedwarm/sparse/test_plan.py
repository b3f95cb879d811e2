"""A planned density: what a round takes away at most, and how what is charged changes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fedwarm.models import Model, build_model
from fedwarm.sparse.groups import Groups
from fedwarm.sparse.plan import held, multiplier, reached


@pytest.fixture
def groups() -> Groups:
    with torch.device("meta"):
        return Groups.of(build_model(Model(name="lenet5"), 10, 16, 0))


def test_what_fell_too_far_is_taken_back_by_one_share(groups: Groups) -> None:
    draws = np.random.default_rng(0)
    before, after = np.full(groups.count, 0.9), draws.random(groups.count)
    kept = held(groups, before, after, 0.7)
    assert groups.density(after) < 0.7 <= groups.density(kept) < 0.701
    fell = after < before
    assert np.array_equal(kept[~fell], after[~fell])
    shares = (kept[fell] - 0.9) / (after[fell] - 0.9)
    np.testing.assert_allclose(shares, shares[0])


def test_what_is_not_below_the_plan_stays(groups: Groups) -> None:
    before, after = np.full(groups.count, 0.9), np.full(groups.count, 0.8)
    assert held(groups, before, after, groups.density(after)) is after


def test_below_the_plan_nothing_falls_and_what_rose_stays(groups: Groups) -> None:
    before = np.full(groups.count, 0.3)
    after = np.where(np.arange(groups.count) % 2, 0.1, 0.5)
    np.testing.assert_array_equal(held(groups, before, after, 0.9), np.maximum(before, after))


def test_units_that_are_on_count_whole(groups: Groups) -> None:
    some = np.arange(groups.count) % 2 > 0
    theta = np.where(some, 0.6, 0.1)
    assert reached(groups, theta) == groups.density(groups.closed(some)) > groups.density(theta)
    assert reached(groups, np.full(groups.count, 0.4)) == pytest.approx(groups.density(np.full(groups.count, 0.4)))


def test_what_is_charged_grows_while_there_is_too_much() -> None:
    assert multiplier(1.0, 0.5, 0.4) > 1 > multiplier(1.0, 0.3, 0.4)
    ten = 1.0
    for density in (0.5, 0.3) * 5:
        ten = multiplier(ten, density, 0.4)
    assert ten < 1  # an excess is forgiven more slowly than it is charged for
