"""The unbiased code: exact lengths, the mean and variance of its theory, and nothing but what was encoded is decoded."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import chisquare

from fedwarm.coding.packing import CodeError
from fedwarm.coding.stochastic import decode, decode_all, encode, encode_all, packed_bytes, step_of, top

FLOATS = st.floats(-(2.0**100), 2.0**100, width=32)


def draws(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def coded(values: NDArray[np.floating], bits: int, seed: int = 0) -> NDArray[np.float64]:
    return decode(encode(values, bits, draws(seed)), values.size, bits)


@pytest.mark.parametrize("bits", range(2, 17))
@pytest.mark.parametrize("size", [0, 1, 7, 1000])
def test_lengths_are_exact(bits: int, size: int) -> None:
    values = draws().standard_normal(size).astype(np.float32)
    assert len(encode(values, bits, draws())) == packed_bytes(size, bits) == -(-bits * size // 8) + 4


@given(st.integers(2, 16), st.lists(FLOATS, max_size=40))
def test_numbers_go_to_a_neighbour_on_the_grid(bits: int, numbers: list[float]) -> None:
    values = np.array(numbers, np.float32)
    step, found = float(step_of(values, bits)), coded(values, bits)
    assert (np.abs(found - values) < step * (1 + 1e-12)).all() or not step
    steps = found / (step or 1.0)
    assert np.array_equal(steps, np.rint(steps)) and np.abs(steps).max(initial=0) <= top(bits)
    assert not found[values == 0].any()


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_what_is_on_the_grid_comes_back(bits: int) -> None:
    values = np.arange(-top(bits), top(bits) + 1).astype(np.float32) * np.float32(0.25)
    for seed in range(20):
        assert np.array_equal(coded(values, bits, seed), values)


def test_the_step_is_the_least_that_clips_nothing() -> None:
    for seed in range(200):
        values = draws(seed).standard_normal(5).astype(np.float32)
        step, largest = step_of(values, 5), float(np.abs(values).max())
        assert float(step) * 15 >= largest > float(np.nextafter(step, np.float32(0))) * 15


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_mean_and_variance_are_those_of_the_theory(bits: int) -> None:
    """20,000 messages of 50 numbers: each mean within 5 standard errors, each variance within 8 % of the largest."""
    values = draws(1).standard_normal(50).astype(np.float32)
    step, trials = float(step_of(values, bits)), 20_000
    found = coded(np.tile(values, trials), bits, 2).reshape(trials, 50)
    scaled = values / step
    variance = (scaled - np.floor(scaled)) * (np.ceil(scaled) - scaled) * step**2
    assert (np.abs(found.mean(0) - values) <= 5 * np.sqrt(variance / trials) + 1e-7).all()
    np.testing.assert_allclose(found.var(0), variance, atol=0.08 * step**2 / 4)


def test_it_is_stochastic_rounding_in_distribution() -> None:
    """Against the textbook's: up with probability x - floor(x), drawn otherwise."""
    values = np.concatenate([np.full(100_000, 0.3), [7.0]]).astype(np.float32)
    ours = np.bincount(np.rint(coded(values, 4)[:-1]).astype(int), minlength=2)
    theirs = draws(3).binomial(1, 0.3, 100_000)
    assert ours.sum() == 100_000 and chisquare(ours, [70_000, 30_000]).pvalue > 0.001
    assert abs(ours[1] - theirs.sum()) < 4 * np.sqrt(2 * 100_000 * 0.21)


def test_the_generator_is_all_that_is_random() -> None:
    values = draws().standard_normal(100)
    assert encode(values, 4, draws(1)) == encode(values, 4, draws(1)) != encode(values, 4, draws(2))
    used, reference = draws(1), draws(1)
    encode(values.reshape(4, 25), 4, used)
    reference.random(100)
    assert used.bit_generator.state == reference.bit_generator.state


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused(bad: float) -> None:
    values, used = np.array([1.0, bad, 2.0]), draws()
    with pytest.raises(CodeError, match="NaN or infinite"):
        encode(values, 4, used)
    with pytest.raises(CodeError, match="a step is a float32"):
        encode(np.array([1e300]), 4, used)
    assert used.bit_generator.state == draws().bit_generator.state


def test_foreign_bytes_are_refused() -> None:
    words = encode(np.ones(5, np.float32), 4, draws())
    for wrong in (words[:-1], words + b"\0", b""):
        with pytest.raises(CodeError, match="5 numbers of 4 bits and a step take 7"):
            decode(wrong, 5, 4)
    for step in (np.nan, np.inf, -1.0):
        with pytest.raises(CodeError, match="finite and not negative"):
            decode(np.float32(step).tobytes() + words[4:], 5, 4)
    with pytest.raises(CodeError, match="index 15 is off the grid, which ends at 14"):
        decode(words[:4] + b"\xff" + words[5:], 5, 4)
    with pytest.raises(CodeError, match="behind the last index"):
        decode(words[:-1] + b"\xfe", 5, 4)


@pytest.mark.parametrize("bits", [0, 1, 17])
def test_widths_have_limits(bits: int) -> None:
    with pytest.raises(CodeError, match=f"bits = {bits}; stochastic rounding takes 2 to 16"):
        encode(np.ones(3), bits, draws())


def test_arrays_travel_behind_one_another_each_with_its_step() -> None:
    arrays = [np.full((2, 3), 5.0, np.float32), np.zeros(0, np.float32), np.full(4, 1e-6)]
    sizes = [a.size for a in arrays]
    data = encode_all(arrays, 3, draws())
    assert data.dtype == np.uint8 and data.size == sum(packed_bytes(n, 3) for n in sizes)
    for found, array in zip(decode_all(data, sizes, 3), arrays, strict=True):
        np.testing.assert_allclose(found, array.reshape(-1), rtol=1e-6)
    for wrong in (data[:-1], np.append(data, data[:1]), data.astype(np.int16)):
        with pytest.raises(CodeError, match="these arrays take uint8"):
            decode_all(wrong, sizes, 3)
    assert decode_all(encode_all([], 3, draws()), [], 3) == []


def test_a_million_numbers_are_coded_without_a_loop() -> None:
    def calls(count: int) -> int:
        values, source, seen = draws().standard_normal(count).astype(np.float32), draws(), 0

        def count_call(*_: object) -> None:
            nonlocal seen
            seen += 1

        sys.setprofile(count_call)
        try:
            data = encode(values, 4, source)
        finally:
            sys.setprofile(None)
        assert len(data) == packed_bytes(count, 4) == count // 2 + 4
        return seen

    assert calls(1_000_000) < 2 * calls(1_000)
