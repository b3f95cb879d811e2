"""Adam on a vector in float64: Kingma, Ba, arXiv 1412.6980, Alg. 1."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Adam:
    """What Adam knows after some steps; `step` gives what it knows after one more.

    Attributes:
        rate: step size.
        mean, square: of gradients so far, without the correction of their bias (m,).
        steps: taken.
    """

    rate: float
    mean: Floats = field(default_factory=lambda: np.zeros(0))
    square: Floats = field(default_factory=lambda: np.zeros(0))
    steps: int = 0

    def step(self, values: Floats, gradient: Floats) -> tuple[Floats, Adam]:
        """The values (m,) after a step along a gradient (m,), and Adam after it."""
        before = self if self.steps else Adam(self.rate, np.zeros_like(values), np.zeros_like(values))
        mean, square, steps = 0.9 * before.mean + 0.1 * gradient, 0.999 * before.square + 0.001 * gradient**2, self.steps + 1
        slope = (mean / (1 - 0.9**steps)) / (np.sqrt(square / (1 - 0.999**steps)) + 1e-8)
        return values - self.rate * slope, Adam(self.rate, mean, square, steps)
