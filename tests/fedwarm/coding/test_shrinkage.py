"""Shrinkage: the table of the design, the limits, a one-dimensional integral and simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import integrate, stats

from fedwarm.coding.shrinkage import parallel_variance, power_sum, shrinkage

TABLE = {
    0.25: (0.739, 0.934, 0.992, 0.999, 1.000),
    0.5: (0.706, 0.922, 0.990, 0.999, 1.000),
    1.0: (0.608, 0.868, 0.980, 0.997, 1.000),
    2.0: (0.426, 0.684, 0.890, 0.971, 0.995),
    3.0: (0.313, 0.523, 0.733, 0.865, 0.942),
}


@pytest.mark.parametrize("c", TABLE)
def test_the_table(c: float) -> None:
    assert [shrinkage(b, c) for b in (2, 4, 7, 10, 13)] == pytest.approx(TABLE[c], abs=1e-3)


def test_limits() -> None:
    assert [shrinkage(b, 0.0) for b in (1, 7, 16)] == [1 - 0.5**b for b in (1, 7, 16)]
    assert shrinkage(7, 1e-4) == pytest.approx(1 - 2**-7, abs=1e-8)
    assert shrinkage(16, 0.5) == pytest.approx(1, abs=1e-4)
    assert parallel_variance(16, 0.5) == pytest.approx(1, abs=1e-3)
    values = [shrinkage(7, c) for c in np.arange(0, 3, 0.25)]
    assert values == sorted(values, reverse=True)


@pytest.mark.parametrize("c", [0.01, 0.3, 1.0, 2.5])
def test_weights_sum_to_one(c: float) -> None:
    for bits in (1, 4, 10, 16):
        assert power_sum(bits, c, 1) == pytest.approx(1, abs=1e-8)


@pytest.mark.parametrize("c", [0.05, 0.7, 3.0])
def test_two_candidates_are_one_integral(c: float) -> None:
    """K = 2: pi is the logistic function of c sqrt(2) g with g standard normal."""

    def integrand(g: float, power: int) -> float:
        p = 1 / (1 + np.exp(-c * np.sqrt(2) * g))
        return float((p**power + (1 - p) ** power) * stats.norm.pdf(g))

    for power in (2, 3):
        wanted = integrate.quad(integrand, -12, 12, args=(power,), epsabs=1e-13)[0]
        assert power_sum(1, c, power) == pytest.approx(wanted, abs=1e-9)


@pytest.mark.parametrize(("bits", "c"), [(2, 0.5), (4, 1.0), (7, 2.0)])
def test_simulation(bits: int, c: float) -> None:
    """Mean within 4 standard errors; the mean of the chosen t is s c, and its variance the formula's."""
    draws = np.random.default_rng(1)
    t = draws.normal(size=(60_000, 1 << bits)) if bits < 7 else draws.normal(size=(20_000, 128))
    weights = np.exp(c * t)
    weights /= weights.sum(1, keepdims=True)
    for power in (2, 3):
        sums = (weights**power).sum(1)
        assert abs(sums.mean() - power_sum(bits, c, power)) < 4 * sums.std() / np.sqrt(len(sums))
    chosen = np.take_along_axis(t, (np.log(weights) + draws.gumbel(size=t.shape)).argmax(1)[:, None], 1)[:, 0]
    assert abs(chosen.mean() - c * shrinkage(bits, c)) < 4 * chosen.std() / np.sqrt(chosen.size)
    spread = chosen.var() * np.sqrt(2 / chosen.size)
    assert abs(chosen.var() - parallel_variance(bits, c)) < 4.5 * spread
