"""Poisson sampling of clients: what it saves, and the padding without which it saves nothing.

A client that is left out takes its noise away as well as its signal. So the server adds decoded vectors of nobody until every
sum has the same number of slots; then one round is q P + (1 - q) Q against Q, and the bounds below hold.

Zhu, Wang, "Poisson Subsampled Renyi Differential Privacy", ICML 2019; Mironov, Talwar, Zhang, "Renyi Differential Privacy of the
Sampled Gaussian Mechanism", arXiv 1908.10530.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedwarm.privacy.random_coding import Curve
from fedwarm.privacy.randomness import SYSTEM, Source, uniforms

OVERFLOW_SHARE = 0.1


@dataclass(frozen=True)
class Slots:
    """Decoded vectors in every sum, and the probability that some cohort of the run does not fit (part of delta)."""

    count: int
    overflow: float


def slots(population: int, rate: float, rounds: int, delta: float) -> Slots:
    """The smallest n with rounds P(Bin(N - 1, q) >= n) <= delta / 10."""
    from scipy.special import bdtrc

    counts = np.arange(1, population + 1)
    overflow = rounds * bdtrc(counts - 1, population - 1, rate) if population > 1 else np.zeros(1)
    overflow[-1] = 0.0  # N - 1 others never fill N slots
    first = int(np.argmax(overflow <= OVERFLOW_SHARE * delta))
    return Slots(int(counts[first]), float(overflow[first]))


def poisson_cohort(population: int, rate: float, source: Source = SYSTEM) -> tuple[int, ...]:
    """A cohort: each of `population` clients takes part with probability `rate`, by private randomness; ascending."""
    return tuple(int(i) for i in np.flatnonzero(uniforms(population, source) < rate))


def _log_binomials(order: int) -> Curve:
    from scipy.special import gammaln

    j = np.arange(order + 1)
    return np.asarray(gammaln(order + 1) - gammaln(j + 1) - gammaln(order - j + 1))


def _log_mixture(order: int, rate: float) -> Curve:
    """ln binom(alpha, j) (1 - q)^(alpha - j) q^j for j = 0..alpha."""
    j = np.arange(order + 1)
    return np.asarray(_log_binomials(order) + (order - j) * np.log1p(-rate) + j * np.log(rate))


def sampled_present(curve: Curve, rate: float) -> Curve:
    """A bound on D_alpha(q P + (1 - q) Q || Q) from the curve of D_j(P||Q); exact where that is exact.

    sum_j binom(alpha, j) (1 - q)^(alpha - j) q^j e^{(j - 1) D_j}, the exponent 0 for j < 2.
    """
    if rate >= 1:
        return curve
    growth = np.concatenate([[0.0, 0.0], np.arange(1, curve.size + 1) * curve])
    logs = [np.logaddexp.reduce(_log_mixture(a, rate) + growth[: a + 1]) / (a - 1) for a in range(2, curve.size + 2)]
    return np.asarray(np.clip(np.array(logs), 0.0, curve))


def sampled_absent(curve: Curve, rate: float) -> Curve:
    """A bound on D_alpha(Q || q P + (1 - q) Q), from the larger of the two directions' curves (Zhu, Wang, theorem 5).

    It is -ln(1 - q) at most, whatever P is, as the density of Q is nowhere more than 1 / (1 - q) times the other's.

    (1-q)^{alpha-1} (alpha q - q + 1) + binom(alpha, 2) q^2 (1-q)^{alpha-2} e^{D_2} + 3 sum_{l>=3} .. e^{(l-1) D_l}.
    """
    if rate >= 1:
        return curve
    growth = np.concatenate([[0.0, 0.0], np.arange(1, curve.size + 1) * curve])
    out = np.empty(curve.size)
    for order in range(2, curve.size + 2):
        terms = _log_mixture(order, rate) + growth[: order + 1]
        terms[3:] += np.log(3)
        first = (order - 1) * np.log1p(-rate) + np.log1p((order - 1) * rate)
        out[order - 2] = np.logaddexp.reduce(np.concatenate([[first], terms[2:]])) / (order - 1)
    return np.asarray(np.clip(out, 0.0, np.minimum(curve, -np.log1p(-rate))))
