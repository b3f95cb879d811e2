"""The closed forms of random coding: sixty digits, special cases, the table of the design, simulation and exact integrals."""

from __future__ import annotations

from math import comb, exp, factorial, log

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, optimize, stats

from fedwarm.privacy.accountant import delta_of, epsilon_of
from fedwarm.privacy.random_coding import absent_to_present, present_to_absent

QUICK = settings(max_examples=40)
RATIOS = {
    (0.25, 4): (0.939, 0.946, 0.959, 0.980, 1.008, 1.035),
    (0.25, 7): (0.992, 0.993, 0.995, 0.998, 1.001, 1.004),
    (0.5, 7): (0.993, 0.996, 1.000, 1.004, 1.006, 1.372),
    (0.5, 10): (0.999, 1.000, 1.000, 1.000, 1.001, 1.116),
    (1.0, 4): (0.960, 1.026, 1.166, 1.551, 1.770, 1.883),
    (1.0, 7): (0.995, 1.003, 1.009, 1.309, 1.644, 1.820),
    (1.0, 16): (1.000, 1.000, 1.000, 1.000, 1.267, 1.628),
    (2.0, 7): (0.998, 1.104, 1.490, 1.733, 1.864, 1.931),
}


def at(bits: int, c: float, order: int) -> float:
    return float(absent_to_present(bits, c * c, order)[-1])


@pytest.mark.parametrize(
    ("bits", "c", "order", "value"),
    [
        (7, 0.5, 2, 0.248270386197795),
        (7, 0.5, 4, 0.498091119068946),
        (7, 1.0, 16, 10.471020444345),
        (7, 2.0, 64, 247.224861594596),
        (4, 1.0, 64, 60.2703962015872),
    ],
)
def test_values_of_the_design(bits: int, c: float, order: int, value: float) -> None:
    assert at(bits, c, order) == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize(("key", "row"), RATIOS.items())
def test_ratio_to_the_gaussian(key: tuple[float, int], row: tuple[float, ...]) -> None:
    c, bits = key
    curve = absent_to_present(bits, c * c, 64)
    assert [curve[a - 2] / (a * c * c / 2) for a in (2, 4, 8, 16, 32, 64)] == pytest.approx(row, abs=1e-3)


@pytest.mark.parametrize("c", [0.1, 0.5, 1.0, 2.0])
def test_special_cases(c: float) -> None:
    for bits in (1, 4, 7, 13):
        assert at(bits, c, 2) == pytest.approx(log(0.5**bits + (1 - 0.5**bits) * exp(c * c)), rel=1e-12)
    assert at(1, c, 3) == pytest.approx(0.5 * log((1 + 2 * exp(c * c) + exp(4 * c * c)) / 4), rel=1e-12)
    assert not absent_to_present(0, c * c, 64).any() and not present_to_absent(0, c * c, 64).any(), "K = 1 leaks nothing"
    assert not absent_to_present(7, 0.0, 64).any()


def in_sixty_digits(bits: int, c: float, order: int) -> float:
    """The same expectation, expanded over who holds how many of the n' places, in 60-digit arithmetic without logarithms."""
    with mpmath.workdps(60):
        n, c2, count = order - 1, mpmath.mpf(c) ** 2, 2**bits
        series = [mpmath.exp(c2 * s * s / 2) / factorial(s) for s in range(n + 1)]
        power = [mpmath.mpf(1)] + [mpmath.mpf(0)] * n
        for _ in range(count - 1):
            power = [mpmath.fsum(power[s] * series[r - s] for s in range(r + 1)) for r in range(n + 1)]
        total = mpmath.fsum(comb(n, r) * power[r] * factorial(r) * mpmath.exp(c2 * r * r / 2) for r in range(n + 1))
        return float(mpmath.log(total / mpmath.mpf(count) ** n) / n)


@pytest.mark.parametrize(("bits", "c", "order"), [(1, 0.3, 12), (3, 2.0, 9), (4, 1.0, 20), (6, 0.05, 8), (5, 3.0, 16)])
def test_sixty_digits(bits: int, c: float, order: int) -> None:
    assert at(bits, c, order) == pytest.approx(in_sixty_digits(bits, c, order), rel=1e-11)


def losses(bits: int, c: float, trials: int) -> np.ndarray:
    """K pi_1 under Q: candidates standard normal and the index uniform, so the first by symmetry."""
    logs = c * np.random.default_rng(0).normal(size=(trials, 2**bits))
    return np.exp(logs[:, 0] - np.logaddexp.reduce(logs, axis=1) + bits * log(2))


@pytest.mark.parametrize(("order", "value", "other"), [(2, 0.24827, 0.2466), (4, 0.49809, 0.4898)])
def test_simulation(order: int, value: float, other: float) -> None:
    """40,000 trials, K = 128, c = .5: D(Q||P) within 4 standard errors of the closed form, D(P||Q) at or below its bound."""
    weights = losses(7, 0.5, 40_000)
    moments = weights ** (1 - order)
    error = moments.std() / 200 / moments.mean() / (order - 1)
    assert at(7, 0.5, order) == pytest.approx(value, abs=1e-5)
    assert abs(log(moments.mean()) / (order - 1) - value) < 4 * error
    forward = weights**order
    estimate, error = log(forward.mean()) / (order - 1), forward.std() / 200 / forward.mean() / (order - 1)
    assert abs(estimate - other) < 4 * error
    assert estimate - 4 * error < present_to_absent(7, 0.25, order)[-1] == (1 - 2**-7) * order / 8


@pytest.mark.parametrize("c", [0.2, 1.0, 2.5])
@pytest.mark.parametrize("order", [2, 3, 8])
def test_two_candidates_are_one_integral(c: float, order: int) -> None:
    """K = 2: the loss is a function of t_1 - t_2 alone. One direction exactly, the other under its bound."""

    def moment(power: int) -> float:
        def integrand(g: float) -> float:
            return float(np.exp(power * (log(2) - np.logaddexp(0.0, -c * np.sqrt(2) * g)) + stats.norm.logpdf(g)))

        reach = 12 + abs(power) * c * 1.5
        return float(integrate.quad(integrand, -reach, reach, epsabs=0, epsrel=1e-12, limit=400)[0])

    assert at(1, c, order) == pytest.approx(log(moment(1 - order)) / (order - 1), rel=1e-9)
    assert log(moment(order)) / (order - 1) <= present_to_absent(1, c * c, order)[-1] * (1 + 1e-12)


@pytest.mark.parametrize("c", [0.3, 1.0, 2.0])
def test_delta_of_two_candidates_is_never_understated(c: float) -> None:
    """The exact hockey-stick divergences of K = 2 by quadrature, in both directions, against what the curves promise."""
    for epsilon in (0.1, 0.5, 1.0, 2.0):

        def stick(g: float, forward: bool, epsilon: float = epsilon) -> float:
            ratio = 2 / (1 + np.exp(-c * np.sqrt(2) * g))  # P / Q under Q
            gap = ratio - exp(epsilon) if forward else 1 - exp(epsilon) * ratio
            return float(max(0.0, gap) * stats.norm.pdf(g))

        exact = [integrate.quad(stick, -12, 12, args=(forward,), limit=400)[0] for forward in (True, False)]
        promised = [delta_of(present_to_absent(1, c * c, 256), epsilon), delta_of(absent_to_present(1, c * c, 256), epsilon)]
        assert exact[0] <= promised[0] and exact[1] <= promised[1] + 1e-12
        assert promised[1] < 1


def exact_epsilon_of_two(c: float, delta: float) -> float:
    """Epsilon of D(Q||P) for K = 2 by quadrature: delta = E_Q (1 - e^epsilon P / Q)+."""

    def gap(epsilon: float) -> float:
        edge = -np.log(2 * exp(epsilon) - 1) / (c * np.sqrt(2))

        def stick(g: float) -> float:
            return float((1 - exp(epsilon) * 2 / (1 + np.exp(-c * np.sqrt(2) * g))) * stats.norm.pdf(g))

        return float(integrate.quad(stick, -40, edge, epsabs=0, epsrel=1e-9)[0]) - delta

    return float(optimize.brentq(gap, 0.01, 60))


def test_a_gaussian_account_would_lie_and_ours_does_not() -> None:
    """c = 1, K = 2, delta = 1e-5: epsilon is 4.88 in truth; the Gaussian formula promises 4.75, ours 5.40."""
    truth, gaussian = exact_epsilon_of_two(1.0, 1e-5), epsilon_of(np.arange(2, 257) / 2, 1e-5)
    ours = epsilon_of(absent_to_present(1, 1.0, 256), 1e-5)
    assert truth == pytest.approx(4.883, abs=1e-3)
    assert gaussian < truth < ours < 1.15 * truth
    assert at(4, 1.0, 8) == pytest.approx(4.67, abs=0.01) and at(4, 1.0, 8) > 8 / 2
    for c in (0.3, 0.5, 2.0):
        assert exact_epsilon_of_two(c, 1e-5) < epsilon_of(absent_to_present(1, c * c, 256), 1e-5)


@pytest.mark.parametrize(
    ("bits", "c", "blocks", "epsilon"), [(7, 1.0, 4, 4.0), (2, 0.7, 6, 3.0), (4, 0.5, 8, 2.0), (8, 1.0, 1, 1.0)]
)
def test_simulated_delta_is_never_understated(bits: int, c: float, blocks: int, epsilon: float) -> None:
    """Many blocks: 20,000 draws under Q of the hockey-stick divergences, less 4 standard errors, below what is promised."""
    draws, total = np.random.default_rng(0), np.zeros(20_000)
    for _ in range(blocks):
        logs = c * draws.normal(size=(20_000, 2**bits))
        total += logs[:, 0] - np.logaddexp.reduce(logs, axis=1) + bits * log(2)
    sticks = np.maximum(0, np.exp(total) - exp(epsilon)), np.maximum(0, 1 - np.exp(epsilon + total))
    forward = delta_of(present_to_absent(bits, c * c * blocks, 256, blocks), epsilon)
    back = delta_of(blocks * absent_to_present(bits, c * c, 256), epsilon)
    for stick, promised in zip(sticks, (forward, back), strict=True):
        assert stick.mean() > 0, "the simulation sees something"
        assert stick.mean() - 4 * stick.std() / np.sqrt(stick.size) < promised < 40 * stick.mean()


def test_the_gaussian_is_the_limit() -> None:
    c = 0.5
    orders = np.arange(2, 33)
    for bits, rel in ((10, 2e-3), (16, 2e-5)):
        np.testing.assert_allclose(absent_to_present(bits, c * c, 32), orders * c * c / 2, rtol=rel)
        np.testing.assert_allclose(present_to_absent(bits, c * c, 32), orders * c * c / 2, rtol=2.0**-bits)


@QUICK
@given(st.integers(1, 14), st.floats(0.01, 3.0), st.floats(1.001, 1.5))
def test_shape_of_the_curves(bits: int, c: float, factor: float) -> None:
    """Increasing in the order and in c; (alpha - 1) D convex in alpha; D / c^2 does not fall with c."""
    small, large = (absent_to_present(bits, e, 40) for e in (c * c, c * c * factor))
    assert (np.diff(small) > -1e-13).all() and (small > 0).all()
    scaled = np.concatenate([[0.0], np.arange(1, 40) * small])
    assert (np.diff(scaled, 2) > -1e-11 * scaled[2:]).all()
    assert (large * (1 + 1e-9) >= small * factor).all(), "convex in c^2: doubling the energy at least doubles the price"
    assert (present_to_absent(bits, c * c * factor, 40) >= present_to_absent(bits, c * c, 40)).all()


def test_present_to_absent_never_passes_the_bits() -> None:
    assert present_to_absent(4, 1e6, 64).max() == 4 * log(2)
    assert present_to_absent(4, 1e6, 64, blocks=5).max() == 20 * log(2)
