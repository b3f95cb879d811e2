"""Renyi divergences of random coding, in closed form: an upper bound in one direction, the exact value in the other.

One block: candidates z_k ~ N(0, sigma^2 I), k = 1..K, all known to the adversary; the index is drawn with
pi_k = a_k / sum a, a_k = exp(c t_k - c^2/2), t_k iid N(0, 1), c = ||v|| / sigma. Present: P(z, k) = phi(z) pi_k. Absent (v = 0):
Q(z, k) = phi(z) / K. The privacy loss ln(K pi_k) is the Gaussian mechanism's, ln a_k, less ln((1/K) sum a): the block's size
drops out, K = 1 leaks nothing, and K -> inf is the Gaussian mechanism with alpha c^2 / 2. The Gaussian value itself is no bound:
from alpha = 2 ln K / c^2 on, D(Q||P) climbs towards twice of it.

Orders are the integers 2..top; entry i of a curve is the order i + 2.
"""

from __future__ import annotations

from functools import lru_cache
from math import log

import numpy as np
from numpy.typing import NDArray

Curve = NDArray[np.float64]


@lru_cache(maxsize=512)
def _absent_to_present(bits: int, energy: float, top: int) -> Curve:
    from scipy.special import gammaln

    count, n = 1 << bits, top - 1
    powers = np.arange(n + 1)
    growth = energy * powers.astype(np.float64) ** 2 / 2
    factorials = gammaln(powers + 1)
    log_m = _power(growth - factorials, count - 1) + factorials  # ln m_r, m_r = E[(sum_{j>1} e^{c t_j})^r]
    out = np.empty(top - 1)
    for order in range(2, top + 1):
        r = powers[:order]  # K^-n' sum_r binom(n', r) m_r e^{c^2 r^2 / 2}, n' = order - 1, whose e is E e^{-c r t_1}
        binomials = factorials[order - 1] - factorials[r] - factorials[order - 1 - r]
        terms = binomials + log_m[r] + growth[r] - (order - 1) * log(count)
        out[order - 2] = np.logaddexp.reduce(terms) / (order - 1)
    out.setflags(write=False)
    return out


def absent_to_present(bits: int, energy: float, top: int) -> Curve:
    """D_alpha(Q||P) of one block with c^2 = `energy`, exact (up to rounding): alpha = 2..top -> (top - 1,).

    E_Q (Q/P)^n' = K^-n' sum_{r=0..n'} binom(n', r) m_r e^{c^2 r^2 / 2}, n' = alpha - 1, where
    m_r = r! [x^r] (sum_s e^{c^2 s^2 / 2} x^s / s!)^(K - 1); all sums run over logarithms of positive terms.
    """
    if bits == 0 or energy == 0:
        return np.zeros(top - 1)
    return np.maximum(_absent_to_present(bits, energy, top), 0.0)


def present_to_absent(bits: int, energy: float, top: int, blocks: int = 1) -> Curve:
    """A bound on D_alpha(P||Q) of blocks whose c^2 sum to `energy`: min(alpha (1 - 1/K) X / 2, B ln K).

    One block: E f(c t), f = K^{alpha-1} sum pi^alpha, solves the heat equation in c^2 / 2, and by Chebyshev's sum inequality
    Laplacian f <= alpha (alpha - 1) (1 - 1/K) f; and K pi_k is at most K.
    """
    orders = np.arange(2, top + 1)
    return np.minimum(orders * (1 - 0.5**bits) * energy / 2, blocks * bits * log(2))


def below_two(orders: Curve, energy: float) -> Curve:
    """A bound on both divergences of blocks whose c^2 sum to `energy`, at orders 1 < alpha <= 2: alpha X / 2, the Gaussian's.

    P||Q: as in `present_to_absent`, which holds for all alpha > 1. Q||P (derived): with s = alpha - 1 and y = 1 / a_k, the moment
    of one block is E[y^s ((1/K) sum a)^s], and as x^s is concave it is at most E[(l + (1 - l) y)^s] with l = 1/K: the other
    weights have mean 1. Its derivative in l is s E[f(y) (1 - y)] with f(y) = (l + (1 - l) y)^(s - 1). As y is the density of a
    shifted normal, times e^(c^2), that is s E[f(y) - e^(c^2) f(y e^(c^2))], where f(y e^(c^2)) >= e^((s - 1) c^2) f(y): it is
    negative. So the moment is at most that at l = 0, E y^s = e^(s (s + 1) c^2 / 2).
    """
    return orders * energy / 2


def _power(log_series: Curve, exponent: int) -> Curve:
    """ln of the coefficients of (sum_s e^{log_series[s]} x^s)^exponent, cut at the same degree; by squaring."""
    result, base = np.full(log_series.size, -np.inf), log_series
    result[0] = 0.0
    while exponent:
        if exponent & 1:
            result = _convolve(result, base)
        exponent >>= 1
        if exponent:
            base = _convolve(base, base)
    return result


def _convolve(a: Curve, b: Curve) -> Curve:
    """ln sum_s e^{a[s] + b[r - s]} for r = 0..n."""
    n = a.size
    gap = np.arange(n)[:, None] - np.arange(n)
    table = np.where(gap >= 0, a + b[np.maximum(gap, 0)], -np.inf)
    top = table.max(axis=1, keepdims=True)
    top = np.where(np.isfinite(top), top, 0.0)
    with np.errstate(divide="ignore"):
        return np.asarray(top[:, 0] + np.log(np.exp(table - top).sum(axis=1)))
