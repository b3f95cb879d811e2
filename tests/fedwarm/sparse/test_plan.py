"""A planned density: what a round takes away at most, and how what is charged changes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from fedwarm.models import Model, build_model
from fedwarm.sparse.groups import Groups
from fedwarm.sparse.plan import Gates, Turn, felled, held, likeliest, multiplier, on, reached, turned


@pytest.fixture
def groups() -> Groups:
    with torch.device("meta"):
        return Groups.of(build_model(Model(name="lenet5"), 10, 16, 0))


def test_of_what_falls_too_far_those_fall_that_are_wanted_least(groups: Groups) -> None:
    draws = np.random.default_rng(0)
    before, after = np.full(groups.count, 0.9), draws.random(groups.count).round(2)
    kept = held(groups, before, after, 0.7)
    assert groups.density(after) < 0.7 <= groups.density(kept) < 0.71
    edge = after[(kept > after) & (after < 0.9)].min()
    np.testing.assert_array_equal(kept[after < edge], after[after < edge])
    assert len(set(kept[after == edge])) == 1 and edge <= kept[after == edge][0] < 0.9
    np.testing.assert_array_equal(kept[after > edge], np.maximum(after, 0.9)[after > edge])


def test_of_groups_that_are_wanted_alike_all_fall_by_one_share(groups: Groups) -> None:
    kept = held(groups, np.full(groups.count, 0.9), np.zeros(groups.count), 0.5)
    assert len(set(kept)) == 1 and groups.density(kept) == pytest.approx(0.5, abs=1e-3)


def test_what_is_left_at_the_end_has_room_in_the_plan(groups: Groups) -> None:
    theta = np.linspace(0.3, 0.99, groups.count)
    assert likeliest(groups, theta, 1.0).all()
    gone = np.where(theta < 0.5, 0.0, theta)
    np.testing.assert_array_equal(likeliest(groups, gone, 1.0), groups.closed(gone > 0))
    on = likeliest(groups, theta, 0.2)
    assert 0.15 < groups.density(on) <= 0.2 and theta[on].min() > theta[~on].max() - 0.7
    alike = np.full(groups.count, 0.9)
    assert likeliest(groups, alike, 0.2).all()  # nothing tells them apart
    assert not likeliest(groups, np.full(groups.count, 0.4), 0.2).any()


def test_groups_below_one_half_fill_the_room_that_is_left(groups: Groups) -> None:
    theta = np.where(np.arange(groups.count) % 10 > 0, np.linspace(0.1, 0.4, groups.count), 0.9)
    on, likely = groups.density(likeliest(groups, theta, 0.5)), groups.density(groups.closed(theta > 0.5))
    assert likely < 0.4 < on <= 0.5


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


def test_gates_end_once_the_density_is_reached_or_where_it_is_said(groups: Groups) -> None:
    few = np.where(np.arange(groups.count) % 20 > 0, 0.05, 0.9)
    many = np.full(groups.count, 0.9)
    gates = Gates(many, np.ones(groups.count, np.bool_))
    soon = Turn(0.2, 0.2, 0.05, goes=False, ends=False, may_end=True)
    assert groups.density(many) > 0.2 and not turned(groups, gates, many, soon).settled
    ended = turned(groups, gates, few, soon)
    assert ended.settled and set(ended.theta) == {0, 1} and groups.density(ended.alive) <= 0.2
    assert not turned(groups, gates, few, replace(soon, may_end=False)).settled
    assert turned(groups, gates, many, replace(soon, may_end=False, ends=True)).settled


def test_groups_that_fall_whole_are_those_wanted_least(groups: Groups) -> None:
    """So many that the plan is reached, and no more; none that did not fall at all; what was off may rise."""
    draws = np.random.default_rng(0)
    before, after = np.full(groups.count, 0.9), draws.uniform(0.3, 0.95, groups.count)
    before[0], after[0] = 0.05, 0.4
    turn = Turn(0.6, 0.2, 0.05, goes=False, ends=False, may_end=True, whole=True)
    theta = felled(groups, before, after, turn)
    fell = theta == 0.05
    assert 0 < fell.sum() < groups.count and after[fell].max() < after[1:][~fell[1:]].min()
    assert theta[0] == 0.4 and set(theta[1:][~fell[1:]]) == {0.9}
    assert groups.density(on(groups, theta)) <= 0.6
    last = np.flatnonzero(fell)[after[fell].argmax()]
    theta[last] = 0.9
    assert groups.density(on(groups, theta)) > 0.6
    np.testing.assert_array_equal(felled(groups, before, np.maximum(after, 0.9), turn)[1:], before[1:])
    gone = turned(groups, Gates(before, np.ones(groups.count, np.bool_)), after, replace(turn, goes=True, least=0.1))
    assert groups.density(on(groups, gone.theta)) <= 0.6 and not gone.theta[~gone.alive].any() and not gone.settled


def test_groups_go_once_they_may(groups: Groups) -> None:
    theta = np.linspace(0.01, 0.9, groups.count)
    gates = Gates(theta, np.ones(groups.count, np.bool_))
    stay = turned(groups, gates, theta, Turn(0.0, 0.0, 0.05, goes=False, ends=False, may_end=False))
    assert stay.alive.all() and stay.theta.min() == 0.05
    gone = turned(groups, gates, theta, Turn(0.0, 0.0, 0.1, goes=True, ends=False, may_end=False))
    assert not gone.alive[theta < 0.1].any() and not gone.theta[~gone.alive].any() and gone.factor == 1.0
