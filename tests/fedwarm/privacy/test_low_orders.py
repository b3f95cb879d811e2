"""Renyi orders between 1 and 2: the bound by quadrature, and what it saves where epsilon is large."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from fedwarm.privacy.accountant import Accountant, epsilon_of
from fedwarm.privacy.events import LOW, Event, Gaussian, RandomCoding, Sampled, curves
from fedwarm.privacy.random_coding import below_two

DELTA = 1e-5


def coding(energy: float, bits: int = 7, norm: float = 1.0) -> RandomCoding:
    blocks = round(energy / norm**2)
    return RandomCoding.of(bits, energy, np.full(blocks, norm**2))


def epsilon(event: Event, adjacency: str = "zero_out") -> float:
    account = Accountant(DELTA, adjacency)
    account.spend(event)
    return account.epsilon()


def moments(bits: int, norm: float, order: float, log_points: int = 17) -> tuple[float, float]:
    """D(Q||P) and D(P||Q) of one block: over all candidates by 2^17 scrambled points, each turned to the quantiles of normals."""
    points = stats.qmc.Sobol(2**bits, seed=1).random_base2(log_points)
    weights = np.exp(norm * stats.norm.ppf(points) - norm**2 / 2)
    chances = weights / weights.sum(axis=1, keepdims=True)
    ratio = 2**bits * chances  # P / Q of each candidate
    return (
        float(np.log(np.mean(ratio ** (1 - order))) / (order - 1)),
        float(np.log(np.mean(ratio**order)) / (order - 1)),
    )


@pytest.mark.parametrize("bits", [1, 3])
@pytest.mark.parametrize("norm", [0.3, 1.0, 1.6])
@pytest.mark.parametrize("order", [1.05, 1.3, 1.7, 2.0])
def test_both_directions_are_below_the_gaussians(bits: int, norm: float, order: float) -> None:
    limit = float(below_two(np.array([order]), norm**2)[0])
    absent, present = moments(bits, norm, order)
    assert 0 < absent < limit and 0 < present < limit


def test_the_bound_is_reached_by_many_candidates_and_not_at_higher_orders() -> None:
    """So it is no looser than it must be, and says nothing of the orders at which random coding costs up to twice as much."""
    assert moments(7, 0.3, 1.5, 13)[0] > 0.98 * float(below_two(np.array([1.5]), 0.09)[0])
    both = curves(coding(1.0))
    assert both.absent[60] > 1.2 * 62 * 1.0 / 2


@pytest.mark.parametrize(("energy", "wanted"), [(100.0, 96.0), (186.0, 156.2)])
def test_large_figures_fall(energy: float, wanted: float) -> None:
    """110.1 and 196.1 by whole orders."""
    found = epsilon(coding(energy))
    assert found == pytest.approx(wanted, abs=0.06)
    assert found < 0.89 * epsilon_of(curves(coding(energy)).present, DELTA)
    assert found == pytest.approx(epsilon(Gaussian(energy)), rel=1e-9)


def test_small_figures_stay() -> None:
    for event in (coding(4.0), Gaussian(4.0), Sampled(Gaussian(4.0), 0.1)):
        both = curves(event)
        assert epsilon(event) == max(epsilon_of(both.absent, DELTA), epsilon_of(both.present, DELTA))


def test_they_add_up_and_are_none_under_sampling_or_replacement() -> None:
    """There the divergence of order 2 stands in, as divergences grow with their order."""
    two = curves(coding(8.0)) + curves(Gaussian(2.0)) * 3
    np.testing.assert_allclose(two.low, LOW * (8.0 + 6.0) / 2)
    for both in (curves(Sampled(Gaussian(50.0), 0.1)), curves(coding(8.0), "replacement")):
        assert set(both.low.tolist()) == {max(both.absent[0], both.present[0])}
    np.testing.assert_allclose(curves(Gaussian(8.0), "replacement").low, LOW * 32.0 / 2)


def test_the_gaussians_as_dp_accounting_has_it() -> None:
    rdp = pytest.importorskip("dp_accounting.rdp.rdp_privacy_accountant")
    for energy in (30.0, 100.0, 1000.0):
        theirs = rdp.compute_epsilon(LOW, LOW * energy / 2, DELTA)[0]
        assert epsilon(Gaussian(energy)) == pytest.approx(theirs, rel=1e-6)
