"""Poisson sampling: against simulation of the mixture, the exact Gaussian integral, and the limits q = 0 and q = 1."""

from __future__ import annotations

from math import exp, log

import numpy as np
import pytest
from scipy import integrate, stats

from fedwarm.privacy.random_coding import absent_to_present, present_to_absent
from fedwarm.privacy.sampling import poisson_cohort, sampled_absent, sampled_present, slots


def test_values_of_the_design() -> None:
    """K = 128, c = 1, q = .1, alpha = 4."""
    absent, present = absent_to_present(7, 1.0, 64), present_to_absent(7, 1.0, 64)
    assert sampled_present(present, 0.1)[2] == pytest.approx(0.0574, abs=5e-5)
    assert sampled_absent(np.maximum(absent, present), 0.1)[2] == pytest.approx(-log(0.9)), "Zhu and Wang's bound is 0.1167"


def test_from_absent_to_sampled_it_is_zhu_and_wangs_bound_or_what_sampling_alone_allows() -> None:
    """alpha = 4, q = .1, D_j = j / 20: their sum by hand; and whatever is hidden, Q / (q P + (1 - q) Q) <= 1 / (1 - q)."""
    q = 0.1
    curve = np.arange(2, 9) / 20
    terms = [0.9**3 * (4 * q - q + 1), 6 * q**2 * 0.9**2 * exp(0.1), 3 * 4 * q**3 * 0.9 * exp(2 * 0.15), 3 * q**4 * exp(3 * 0.2)]
    assert sampled_absent(curve, q)[2] == pytest.approx(log(sum(terms)) / 3) and sampled_absent(curve, q)[2] < -log(1 - q)
    assert (sampled_absent(100 * curve, q) == -np.log1p(-q)).all()


def test_simulation_stays_below_the_bounds() -> None:
    """K pi_k = P / Q under Q, 20,000 draws, averaged over k: both directions of the mixture, and 4 standard errors more."""
    q, order = 0.1, 4
    logs = np.random.default_rng(0).normal(size=(20_000, 128))
    ratio = np.exp(logs - np.logaddexp.reduce(logs, axis=1, keepdims=True) + 7 * log(2))
    mixture = 1 - q + q * ratio
    for powers, seen, bound in ((mixture**order, 0.0461, 0.0574), (mixture ** (1 - order), 0.0188, 0.1167)):
        moments = powers.mean(1)
        estimate = log(moments.mean()) / (order - 1)
        error = moments.std() / np.sqrt(moments.size) / moments.mean() / (order - 1)
        assert abs(estimate - seen) < 4 * error + 5e-5
        assert estimate + 4 * error < bound


@pytest.mark.parametrize(("rate", "z"), [(0.01, 0.8), (0.3, 2.0)])
def test_the_sampled_gaussian_is_exact(rate: float, z: float) -> None:
    orders = np.arange(2, 12)
    curve = sampled_present(orders / (2 * z * z), rate)
    for i, order in enumerate(orders):

        def integrand(x: float, order: float = order) -> float:
            ratio = np.logaddexp(np.log1p(-rate), np.log(rate) + (2 * x - 1) / (2 * z * z))
            return float(np.exp(order * ratio + stats.norm.logpdf(x, scale=z)))

        moment = integrate.quad(integrand, -12 * z, 12 * z + order, epsabs=0, limit=500, points=[0, float(order)])[0]
        assert curve[i] == pytest.approx(log(moment) / (order - 1), rel=1e-6)


def test_limits() -> None:
    curve = absent_to_present(7, 1.0, 16)
    for bound in (sampled_present, sampled_absent):
        assert np.array_equal(bound(curve, 1.0), curve)
        assert bound(curve, 1e-12).max() < 1e-6
        values = np.array([bound(curve, q) for q in (1e-3, 1e-2, 0.1, 0.5, 0.9, 1.0)])
        assert (np.diff(values, axis=0) >= -1e-12).all(), "more sampling, more cost; never more than without"


def test_slots_of_the_design() -> None:
    assert slots(3400, 100 / 3400, 1000, 1e-5).count == 165
    assert slots(400, 0.25, 40, 1e-5).count == 150


@pytest.mark.parametrize(
    ("population", "rate", "rounds", "delta"), [(50, 0.1, 5, 1e-4), (2, 0.5, 1, 1e-3), (1, 1.0, 3, 1e-5), (9, 1.0, 3, 1e-5)]
)
def test_slots_are_the_fewest_that_hold(population: int, rate: float, rounds: int, delta: float) -> None:
    def overflow(count: int) -> float:
        return rounds * float(stats.binom.sf(count - 1, population - 1, rate))

    found = slots(population, rate, rounds, delta)
    assert overflow(found.count) <= delta / 10 and found.overflow == pytest.approx(overflow(found.count), rel=1e-9, abs=1e-300)
    assert found.count == 1 or overflow(found.count - 1) > delta / 10
    assert found.count <= population


def test_cohorts_are_poisson() -> None:
    source = np.random.default_rng(0).bytes
    sizes = [len(poisson_cohort(200, 0.2, source)) for _ in range(500)]
    assert abs(np.mean(sizes) - 40) < 4 * np.sqrt(32 / 500) and np.var(sizes) == pytest.approx(32, rel=0.3)
    assert poisson_cohort(5, 1.0, source) == (0, 1, 2, 3, 4)
    assert list(poisson_cohort(200, 0.2)) != list(poisson_cohort(200, 0.2)), "from the operating system"
