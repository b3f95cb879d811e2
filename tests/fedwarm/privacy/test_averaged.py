"""Noise that the other vectors of a sum hold: the minorisation by quadrature, and the certificate against true sums by FFT."""

from __future__ import annotations

from itertools import pairwise
from math import exp, log, sqrt

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.special import log_ndtr, ndtr

from fedwarm.privacy.averaged import CENTRES, MARGIN, REACH, VARIANCES, hidden, log_density_ratio, share, shares
from fedwarm.privacy.random_coding import Curve

DELTA, SLACK = 1e-5, 1e-6
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(80)


def log_g(t: Curve, bits: int, norm: float) -> Curve:
    """ln g(t) by quadrature: E[K e^{ct} / (e^{ct} + W)] = K int_0^inf e^{-x} E[exp(-x e^{c(s - t)})]^{K - 1} dx."""
    x = np.exp(np.linspace(-40.0, 6.0, 2401))
    step = log(x[1] / x[0])
    out = []
    for point in t:
        inner = np.exp(-x[:, None] * np.exp(norm * (NODES - point))) @ (WEIGHTS / WEIGHTS.sum())
        out.append(step * np.sum(x * np.exp(-x) * inner ** (2.0**bits - 1)))
    return bits * log(2) + np.log(np.array(out))


def density(t: Curve, bits: int, norm: float) -> Curve:
    """p(t), the law of the chosen candidate's coordinate along the update."""
    return np.asarray(np.exp(log_g(t, bits, norm) - t**2 / 2) / sqrt(2 * np.pi))


@pytest.mark.parametrize(("bits", "norm"), [(1, 0.5), (1, 1.3), (2, 1.0), (4, 1.0), (7, 0.5), (7, 1.0), (7, 1.3)])
def test_the_law_holds_a_normal_part(bits: int, norm: float) -> None:
    """p integrates to 1, lies above the bound of Jensen's inequality, and above w times a normal density for each tau."""
    t = np.linspace(-8.0, 8.0, 161)
    p = density(t, bits, norm)
    assert (t[1] - t[0]) * p.sum() == pytest.approx(1.0, abs=1e-6)
    assert (log_g(t, bits, norm) >= log_density_ratio(t, bits, norm) - 1e-6).all()
    for variance in (0.8, 0.9, 0.97):
        w = share(bits, norm, variance)
        normal = [np.exp(-((t - a) ** 2) / (2 * variance)) / sqrt(2 * np.pi * variance) for a in np.linspace(0.0, norm, CENTRES)]
        within = [np.abs(t - a) <= REACH * sqrt(variance) for a in np.linspace(0.0, norm, CENTRES)]
        assert any((p >= (w - MARGIN) * n)[inside].all() for n, inside in zip(normal, within, strict=True))
        assert not any((p >= 1.2 * n)[inside].all() for n, inside in zip(normal, within, strict=True))


def test_its_share_falls_with_the_norm_and_rises_with_the_bits() -> None:
    norms = np.linspace(0.05, 1.3, 40)
    for variance in (0.8, 0.9):
        for bits in (2, 4, 7, 10):
            found = [share(bits, float(c), variance) for c in norms]
            assert all(a >= b - 1e-4 for a, b in pairwise(found))
            assert all(share(bits + 2, float(c), variance) >= share(bits, float(c), variance) - 1e-4 for c in norms[::8])


@pytest.mark.parametrize(
    ("bits", "values"), [(4, (0.930, 0.766, 0.642)), (7, (0.966, 0.851, 0.761)), (10, (0.982, 0.894, 0.825))]
)
def test_the_noise_of_a_vector(bits: int, values: tuple[float, ...]) -> None:
    """w tau^2 at the best tau for c = 0.5, 1 and 1.3, as worked out on grids of other steps and ends before."""
    for norm, value in zip((0.5, 1.0, 1.3), values, strict=True):
        found = float(((shares(bits, round(64 * norm)) + MARGIN) * VARIANCES).max())
        assert found == pytest.approx(value, abs=0.02)


# One round of n vectors that all point the same way, the client's among them: what a sum really tells


def convolved(p: Curve, times: int) -> Curve:
    return np.asarray(np.fft.irfft(np.fft.rfft(p) ** times, p.size))


def true_epsilon(bits: int, norm: float, count: int) -> float:
    """Of the sum along the update, in both directions, by FFT: the epsilon at which the hockey stick is DELTA."""
    step, size = 0.01, 2**16
    t = step * np.arange(-1000, 1000)
    chosen, none = np.zeros(size), np.zeros(size)
    coarse = t[::20]
    ratio = np.interp(t, coarse, log_g(coarse, bits, norm))
    chosen[: t.size] = step * np.exp(ratio - t**2 / 2) / sqrt(2 * np.pi)
    none[: t.size] = step * np.exp(-(t**2) / 2) / sqrt(2 * np.pi)
    others = np.fft.rfft(chosen / chosen.sum()) ** (count - 1)
    sums = [np.maximum(np.fft.irfft(np.fft.rfft(one / one.sum()) * others, size), 0.0) for one in (chosen, none)]

    def spent(epsilon: float) -> float:
        return max(float(np.maximum(a - exp(epsilon) * b, 0.0).sum()) for a, b in (sums, sums[::-1]))

    return float(brentq(lambda epsilon: log(spent(epsilon) + 1e-300) - log(DELTA), 0.0, 8.0))


def gaussian_epsilon(energy: float, delta: float) -> float:
    """Exact epsilon of the Gaussian mechanism (Balle, Wang, arXiv 1805.06530, theorem 8)."""
    shift = sqrt(energy)

    def spent(epsilon: float) -> float:
        return float(ndtr(shift / 2 - epsilon / shift) - exp(epsilon + log_ndtr(-shift / 2 - epsilon / shift)))

    return float(brentq(lambda epsilon: log(max(spent(epsilon), 1e-300)) - log(delta), 0.0, 60.0))


def certified(bits: int, norm: float, count: int, shift: float = 1.0) -> float:
    return gaussian_epsilon((shift * norm) ** 2 / hidden(bits, norm, 1, count - 1, SLACK), DELTA - SLACK)


@pytest.mark.parametrize(("bits", "norm"), [(4, 1.0), (7, 1.0), (7, 0.5)])
@pytest.mark.parametrize("count", [10, 40, 150])
def test_the_certificate_is_above_the_truth_and_not_far(bits: int, norm: float, count: int) -> None:
    """For half of the shift it would lie below it, so that the test can fail."""
    truth = true_epsilon(bits, norm, count)
    assert truth <= certified(bits, norm, count) and (count == 10 or certified(bits, norm, count, 0.5) < truth)
    assert certified(bits, norm, count) < {10: 6, 40: 1.7, 150: 1.45}[count] * truth


def test_it_tends_to_the_limit() -> None:
    limit = gaussian_epsilon(0.25 / 150, DELTA)
    assert limit < certified(12, 0.5, 150) < 1.06 * limit


def test_no_others_hide_nothing() -> None:
    assert hidden(7, 1.0, 10, 0, SLACK) == 0.0 and hidden(7, 1.0, 10, 1, SLACK) == 0.0
    assert hidden(7, 1e3, 10, 500, SLACK) == 0.0
    assert hidden(7, 1.0, 10, 100, SLACK) < hidden(7, 1.0, 10, 100, 1e-3) < 100
    assert hidden(7, 1.0, 1000, 100, SLACK) <= hidden(7, 1.0, 10, 100, SLACK)
