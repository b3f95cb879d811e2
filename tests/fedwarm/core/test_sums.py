"""Sums that have the same bits wherever arrays lie, however many threads compute and in whatever order names come."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from fedwarm.aggregators import Robust, aggregator
from fedwarm.aggregators.krum import krum_scores
from fedwarm.coding import blocks, stochastic
from fedwarm.core import sums
from fedwarm.core.arrays import Arrays, WeightedMean
from fedwarm.core.compute import torch_threads
from fedwarm.core.norms import reference_norm, update_norm
from fedwarm.privacy.clipping import clip, norm_of
from fedwarm.training.loop import Plan, fit

SHIFTS = range(1, 65)


def shifted(array: NDArray[Any], by: int) -> NDArray[Any]:
    """A copy that begins `by` bytes after a multiple of 64."""
    room = np.zeros(array.nbytes + 192, dtype=np.uint8)
    start = -room.ctypes.data % 64 + by
    copy = room[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    assert copy.ctypes.data % 64 == by % 64
    return copy


def named(seed: int, scale: float = 1.0) -> Arrays:
    draws = np.random.default_rng(seed)
    sizes = {"conv.weight": (16, 3, 3, 3), "conv.bias": (16,), "fc.weight": (10, 517), "fc.bias": (10,), "one": ()}
    return {name: (scale * draws.standard_normal(shape)).astype(np.float32) for name, shape in sizes.items()}


def bits(value: Any) -> bytes:
    if isinstance(value, dict):
        return b"".join(name.encode() + np.asarray(value[name]).tobytes() for name in sorted(value))
    return np.asarray(value).tobytes()


def ruled(rule: str) -> Callable[[list[Arrays]], Arrays]:
    def combine(replies: list[Arrays]) -> Arrays:
        found = aggregator(Robust(rule=rule, clip_norm=40.0, trim=0.3, byzantine=1, keep=2), replies[0])
        for weight, reply in enumerate(replies[1:], 1):
            found.add(reply, weight / 3)
        return found.result()

    return combine


def weighted(replies: list[Arrays]) -> Arrays:
    mean = WeightedMean()
    for weight, reply in enumerate(replies, 1):
        mean.add(reply, 0.1 * weight)
    return mean.result()


def flat(reply: Arrays) -> NDArray[np.float32]:
    """An array's numbers where they lie: views, no copies."""
    return reply["fc.weight"].reshape(-1)


CASES: dict[str, Callable[[list[Arrays]], Any]] = {
    "update norm": lambda replies: update_norm(replies[1], replies[0]),
    "reference norm": lambda replies: reference_norm(replies[0]),
    "krum's scores": lambda replies: krum_scores(replies, 1),
    **{rule: ruled(rule) for rule in ("mean", "median", "trimmed_mean", "krum")},
    "weighted mean": weighted,
    "norm of an update": lambda replies: norm_of(flat(replies[1])),  # type: ignore[arg-type]
    "clipped update": lambda replies: clip(flat(replies[1]), 1.0),  # type: ignore[arg-type]
    "blocks' energy": lambda replies: blocks.even(5170, 7).squares(flat(replies[1])),  # type: ignore[arg-type]
    "blocks by a profile": lambda replies: blocks.kl_adaptive(flat(replies[1]), 7).shares,
    "stochastic rounding": lambda replies: stochastic.decode(
        stochastic.encode(flat(replies[1]), 4, np.random.default_rng(0)), 5170, 4
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_where_arrays_lie_in_memory_changes_no_bit(case: str) -> None:
    replies = [named(seed, 0.5 + seed) for seed in range(7)]
    expected = bits(CASES[case](replies))
    for by in SHIFTS:
        moved = [{name: shifted(array, by + i) for name, array in reply.items()} for i, reply in enumerate(replies)]
        assert bits(CASES[case](moved)) == expected, by


@pytest.mark.parametrize("case", [case for case in CASES if "norm" in case or case in ("krum", "krum's scores", "mean")])
def test_the_order_of_names_changes_no_bit(case: str) -> None:
    replies = [named(seed, 10.0**seed) for seed in range(7)]
    expected = bits(CASES[case](replies))
    for seed in range(20):
        order = np.random.default_rng(seed).permutation(list(replies[0]))
        assert bits(CASES[case]([{name: reply[name] for name in order} for reply in replies])) == expected


@pytest.mark.parametrize("size", [0, 1, 31, 4095, 4096, 4097, 12_345])
def test_lanes_are_added_row_upon_row(size: int) -> None:
    values = np.random.default_rng(size).standard_normal(size)
    slow = [0.0] * sums.LANES
    for i, value in enumerate(values.tolist()):
        slow[i % sums.LANES] += value
    while len(slow) > sums.FEWEST:
        half = len(slow) // 2
        slow = [a + b for a, b in zip(slow[:half], slow[half:], strict=True)]
    assert sums.lanes(values).tolist() == slow


def test_sums_of_squares_against_exact_arithmetic() -> None:
    x, y = named(0, 1e3), named(1, 1e-3)
    exact = math.fsum((float(a) - float(b)) ** 2 for name in x for a, b in zip(x[name].flat, y[name].flat, strict=True))
    assert sums.norm((x[name], y[name]) for name in x) == pytest.approx(math.sqrt(exact), rel=1e-14)


def test_numbers_that_are_not_finite_give_norms_that_are_not() -> None:
    for value, expected in ((math.inf, math.inf), (math.nan, math.nan)):
        array = np.full(10, value)
        assert str(sums.norm([(array, None)])) == str(expected)
    assert sums.norm([(np.full(10, 1e300), None)]) == math.inf
    assert math.isnan(sums.mean([1.0, math.nan])) and sums.mean([1e308, 1e308]) == math.inf and math.isnan(sums.mean([]))


@pytest.mark.parametrize("by", [4, 8, 20, 32, 60])
def test_training_does_not_hang_on_where_its_weights_and_images_lie(by: int) -> None:
    def trained(place: Callable[[NDArray[Any]], NDArray[Any]]) -> list[bytes]:
        draws = np.random.default_rng(0)
        layers = (torch.nn.Conv2d(3, 5, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(5 * 36, 4))
        model = torch.nn.Sequential(*layers)
        state = {name: torch.from_numpy(place(draws.standard_normal(t.shape).astype(np.float32) / 8)) for name, t in
                 model.state_dict().items()}  # fmt: skip
        model.load_state_dict(state, assign=True)
        images = torch.from_numpy(place(draws.integers(0, 256, (40, 3, 8, 8), dtype=np.uint8)))
        labels = torch.arange(40) % 4
        with torch_threads(1):
            done = fit(model, images, labels, Plan(2, 16, 0.1, 0.9), torch.Generator().manual_seed(0))
        return [np.float64(done.loss).tobytes(), *[t.detach().numpy().tobytes() for t in model.state_dict().values()]]

    assert trained(lambda a: shifted(a, by)) == trained(lambda a: shifted(a, 0))
