"""How much of one law another one does not cover: the hockey-stick divergence, by multiple importance sampling.

delta(epsilon) = E_Q[(1 - e^(epsilon + L))_+], L = ln P/Q, and the same with P and Q exchanged, is the least delta that a
mechanism has at epsilon: (epsilon, delta) holds where it is not passed, and nowhere else. L is exact, so no threshold is chosen.

Draws come from S laws in equal numbers, P and Q among them, and each counts as P or Q over the mean R of all S densities (the
balance heuristic: Veach, Guibas, "Optimally Combining Sampling Techniques for Monte Carlo Rendering", SIGGRAPH 1995; Owen,
Zhou, "Safe and Effective Importance Sampling", JASA 95, 2000). So no weight is above S, and the central limit theorem gives
limits. The means of P / R, Q / R and of all others must be 1, or a mechanism does not draw from the law that it is said to.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log, sqrt

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp
from scipy.stats import norm

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A delta, with limits that hold together with the chance asked for."""

    low: float
    value: float
    high: float


@dataclass(frozen=True)
class Sample:
    """Draws of a game.

    Attributes:
        logs: ln of the densities (runs, S), each above the same one of its outcome; P first, then Q. Run i is of law i modulo S.
    """

    logs: Vector

    @property
    def weights(self) -> Vector:
        """Each density over R (runs, S), in [0, S]."""
        mean = logsumexp(self.logs, axis=1, keepdims=True) - log(self.logs.shape[1])
        return np.asarray(np.exp(self.logs - mean))

    def delta(self, epsilon: float, confidence: float = 0.99) -> Estimate:
        """The larger of both directions' hockey-stick divergences."""
        weights = self.weights
        found = [self._mean(np.maximum(a - np.exp(epsilon) * b, 0.0), confidence) for a, b in (weights.T[:2], weights.T[1::-1])]
        low, value, high = (max(getattr(each, name) for each in found) for name in ("low", "value", "high"))
        return Estimate(max(0.0, low), value, high)

    def epsilon(self, delta: float) -> float:
        """The epsilon at which the estimate is `delta`; 0 where it is less at 0."""
        low, high = 0.0, 200.0
        while high - low > 1e-4:
            middle = (low + high) / 2
            low, high = (middle, high) if self.delta(middle).value > delta else (low, middle)
        return high if low else 0.0

    def off(self) -> float:
        """How far a mean weight is from 1, in its standard errors, at most of all laws."""
        means = [self._mean(column, 0.0) for column in self.weights.T]
        errors = [self._error(column) for column in self.weights.T]
        return max(abs(mean.value - 1) / max(error, 1e-12) for mean, error in zip(means, errors, strict=True))

    def _mean(self, values: Vector, confidence: float) -> Estimate:
        value = float(np.mean([group.mean() for group in self._groups(values)]))
        reach = float(norm.ppf((1 + confidence) / 2 if confidence else 0.5)) * self._error(values)
        return Estimate(value - reach, value, value + reach)

    def _error(self, values: Vector) -> float:
        """The standard error of a mean over laws."""
        groups = self._groups(values)
        return sqrt(sum(group.var(ddof=1) / group.size for group in groups)) / len(groups)

    def _groups(self, values: Vector) -> list[Vector]:
        """By the law that drew them."""
        count = self.logs.shape[1]
        return [values[i::count] for i in range(count)]
