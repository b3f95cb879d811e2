"""What random coding does to the mean and the spread of an update, exactly, by quadrature.

K candidates z_k ~ N(0, sigma^2 I), one chosen with pi_k = a_k / sum a, a_k = exp(c t_k - c^2/2), t_k = <z_k, v> / (sigma ||v||),
c = ||v|| / sigma. By Stein's identity E z = s v with s = 1 - E sum pi^2: the decoded update is short of the true one by s(K, c).
"""

from __future__ import annotations

from functools import lru_cache
from math import lgamma, log

import numpy as np
from numpy.typing import NDArray

STEP_T = 0.02
STEP_U = 0.05
REACH = 9.0


@lru_cache(maxsize=4096)
def power_sum(bits: int, c: float, power: int) -> float:
    """E sum_k pi_k^a for a = `power` in 1, 2, 3; `c` is the block's norm in units of sigma.

    E sum pi^a = K / Gamma(a) int_0^inf u^{a-1} E[e^{a c t - u e^{c t}}] (E e^{-u e^{c t}})^{K-1} du, as
    1 / S^a = (1 / Gamma(a)) int u^{a-1} e^{-u S} du; trapezoids in t and in ln u, where both integrands are smooth.
    """
    count = 1 << bits
    if c == 0 or count == 1:
        return float(count) ** (1 - power)
    t = np.arange(-REACH, REACH + power * c, STEP_T)
    log_density = -(t**2) / 2 - log(2 * np.pi) / 2 + log(STEP_T)
    low = -log(count) - c * c / 2 - 40 / power - 4 * c
    ln_u = np.arange(low, (REACH + power * c) * c + 8.0, STEP_U)
    total = 0.0
    for chunk in np.array_split(ln_u, max(1, ln_u.size // 256)):
        fall = -np.exp(np.minimum(chunk[:, None] + c * t, 700.0))
        others = _log_sum(log_density + fall)
        chosen = _log_sum(log_density + power * c * t + fall)
        total += float(np.exp(power * chunk + chosen + (count - 1) * others + log(count) - lgamma(power)).sum() * STEP_U)
    return total


def _log_sum(x: NDArray[np.float64]) -> NDArray[np.float64]:
    top = x.max(axis=1)
    return np.asarray(top + np.log(np.exp(x - top[:, None]).sum(axis=1)))


def shrinkage(bits: int, c: float) -> float:
    """s(K, c): the decoded update's mean is s times the coded one; s(K, 0) = 1 - 1/K, s(inf, c) = 1."""
    return 1.0 - power_sum(bits, c, 2)


def parallel_variance(bits: int, c: float) -> float:
    """Variance of the decoded update along the coded one, in units of sigma^2; across it the variance is exactly 1.

    1 + c^2 (1 - 3 E sum pi^2 + 2 E sum pi^3) - c^2 s^2.
    """
    second, third = power_sum(bits, c, 2), power_sum(bits, c, 3)
    return 1 + c * c * (1 - 3 * second + 2 * third) - (c * (1 - second)) ** 2
