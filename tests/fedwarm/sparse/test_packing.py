"""Masks and groups as bytes: exact sizes, and what is refused; means by group."""

from __future__ import annotations

import numpy as np
import pytest

from fedwarm.coding.packing import CodeError, mask_bytes, pack_mask
from fedwarm.core.arrays import Arrays, WeightedMean
from fedwarm.sparse.groups import Groups
from fedwarm.sparse.mean import GroupMean
from fedwarm.sparse.packing import (
    Reader,
    from_rounded,
    from_values,
    joined,
    to_numbers,
    to_rounded,
    to_values,
    values_bytes,
)  # fmt: skip
from fedwarm.sparse.sites import Site

SIZES = range(1, 14)


def many() -> tuple[Groups, Arrays]:
    """13 groups of 1 to 13 weights, and two numbers of none."""
    sites = tuple(Site(f"l{n}", True, 1) for n in SIZES)
    shapes: dict[str, tuple[int, ...]] = {f"l{n}.weight": (n, 1) for n in SIZES} | {"bias": (2,)}
    draws = np.random.default_rng(0)
    return Groups(sites, shapes), {n: draws.normal(size=s).astype(np.float32) for n, s in shapes.items()}


@pytest.mark.parametrize("seed", range(6))
def test_bytes_are_those_of_the_formula(seed: int) -> None:
    """ceil(G/8) + 4 sum |g| + 2 a group, and 4 for each number of none; the way back gives the same bits."""
    groups, arrays = many()
    mask = np.random.default_rng(seed).random(13) < (0.0 if seed == 0 else 0.5)
    chosen = groups.chosen(groups.live(np.ones(13, np.bool_)), mask)
    theta = np.full(int(mask.sum()), 0.25)
    packed = joined([pack_mask(mask), to_numbers(theta), to_values(arrays, chosen)])
    assert len(packed) == 2 + 4 * int(np.arange(1, 14)[mask].sum()) + 2 * int(mask.sum()) + 8
    assert len(packed) == mask_bytes(13) + 2 * int(mask.sum()) + values_bytes(chosen)
    reader = Reader(packed)
    assert (reader.mask(13) == mask).all() and (reader.numbers(int(mask.sum())) == theta).all()
    back = from_values(reader, chosen)
    reader.end()
    for name, array in arrays.items():
        np.testing.assert_array_equal(back[name], np.where(chosen[name], array, 0))


def test_rounded_groups_are_right_in_the_mean() -> None:
    groups, arrays = many()
    mask = np.arange(13) % 2 == 0
    chosen = groups.chosen(groups.live(np.ones(13, np.bool_)), mask)
    reference = {name: np.full_like(array, 0.5) for name, array in arrays.items()}
    total = {name: np.zeros(array.shape) for name, array in arrays.items()}
    draws = np.random.default_rng(0)
    for _ in range(400):
        packed = joined([to_rounded(arrays, reference, chosen, 4, draws)])
        assert len(packed) == values_bytes(chosen, 4) == sum(-(-4 * n // 8) + 4 for n in (1, 3, 5, 7, 9, 11, 13, 2))
        for name, array in from_rounded(Reader(packed), reference, chosen, 4).items():
            total[name] += array
    for name, array in arrays.items():
        expected = np.where(chosen[name], array, 0)
        np.testing.assert_allclose(total[name] / 400, expected, atol=4 * np.abs(array - 0.5).max() / 7 / 2 / 20 + 1e-6)


def test_what_nobody_packed_is_refused() -> None:
    with pytest.raises(CodeError, match="uint8 of one dimension"):
        Reader(np.zeros(3, np.float32))
    with pytest.raises(CodeError, match="ends too early"):
        Reader(np.zeros(3, np.uint8)).take(4)
    with pytest.raises(CodeError, match="last are set"):
        Reader(np.full(1, 255, np.uint8)).mask(7)
    with pytest.raises(CodeError, match="1 too many"):
        Reader(np.zeros(1, np.uint8)).end()


def test_the_mean_of_all_is_the_plain_weighted_mean() -> None:
    groups, arrays = many()
    everything, plain, ours = groups.live(np.ones(13, np.bool_)), WeightedMean(), GroupMean(groups)
    for weight in (3, 7, 11):
        each: Arrays = {name: (array * weight).astype(np.float32) for name, array in arrays.items()}
        plain.add(each, weight)
        ours.add(each, everything, np.ones(13), weight)
    for name, array in plain.result().items():
        np.testing.assert_array_equal(ours.result(arrays)[name], array)


def test_what_nobody_sent_stays() -> None:
    groups, arrays = many()
    mask = np.arange(13) == 4
    mean = GroupMean(groups)
    doubled: Arrays = {name: (2 * array.astype(np.float32)).astype(np.float32) for name, array in arrays.items()}
    mean.add(doubled, groups.chosen(groups.live(np.ones(13, np.bool_)), mask), mask.astype(float), 5.0)
    for name, array in mean.result(arrays).items():
        np.testing.assert_array_equal(array, doubled[name] if name in ("l5.weight", "bias") else arrays[name])


@pytest.mark.parametrize("seed", range(5))
def test_the_mean_is_where_the_prior_is_best(seed: int) -> None:
    """sum_s a_s v_sg ||phi_sg - w_g||^2 and sum_s KL are least at the closed forms: steps of 1e-3 raise them, 20 cases each."""
    draws = np.random.default_rng(seed)
    for _ in range(20):
        phi, v, a = draws.normal(size=(4, 3)), draws.uniform(0.05, 1, 4), draws.uniform(0.5, 2, 4)
        groups = Groups((Site("l", True, 1),), {"l.weight": (3, 1)})
        mean = GroupMean(groups)
        for s in range(4):
            mean.add({"l.weight": phi[s][:, None]}, {"l.weight": np.ones((3, 1), np.bool_)}, v[s : s + 1], float(a[s]))
        w, theta = mean.result({"l.weight": np.zeros((3, 1))})["l.weight"][:, 0], np.average(v, weights=a)

        def cost(w: np.ndarray, theta: float, phi=phi, v=v, a=a) -> float:  # type: ignore[type-arg,no-untyped-def]
            kl = v * np.log(v / theta) + np.where(v < 1, (1 - v) * np.log(np.maximum(1 - v, 1e-300) / (1 - theta)), 0)
            return float((a * (v * ((phi - w) ** 2).sum(1) / 2 + kl)).sum())

        least = cost(w, theta)
        for step in (1e-3, -1e-3):
            assert all(cost(w + step * np.eye(3)[i], theta) > least for i in range(3)) and cost(w, theta + step) > least


def test_masks_in_place_of_probabilities_are_right_in_the_mean() -> None:
    """1e4 draws of 12 clients with pi = .5: numerator and denominator within 4 standard errors, the ratio's bias below 2 %."""
    draws = np.random.default_rng(0)
    phi, pi = draws.uniform(1, 2, 12), np.full(12, 0.5)
    z = draws.random((10_000, 12)) < pi
    top, bottom = (z * phi).sum(1), z.sum(1)
    assert abs(top.mean() - (pi * phi).sum()) < 4 * top.std() / 100
    assert abs(bottom.mean() - pi.sum()) < 4 * bottom.std() / 100
    ratio = (top / np.maximum(bottom, 1))[bottom > 0].mean()
    assert abs(ratio / ((pi * phi).sum() / pi.sum()) - 1) < 0.02
