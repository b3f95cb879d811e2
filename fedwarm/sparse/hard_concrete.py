"""Hard concrete gates: Louizos, Welling, Kingma, "Learning Sparse Neural Networks through L0 Regularization", ICLR 2018,
arXiv 1712.01312, section 2.2; temperature, stretch and clamp as in the code released with it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

TEMPERATURE, LOW, HIGH = 2 / 3, -0.1, 1.1
MOST = math.log(100.0)
SHIFT = TEMPERATURE * math.log(-LOW / HIGH)
EDGE = 1e-6


def sampled(log_alpha: Tensor, uniform: Tensor) -> Tensor:
    """z = clip(s (zeta - gamma) + gamma, 0, 1) with s = sigmoid((ln u - ln(1-u) + la) / temp); u in (0, 1), of la's shape."""
    u = uniform.clamp(EDGE, 1 - EDGE)
    s = torch.sigmoid((u.log() - (-u).log1p() + log_alpha) / TEMPERATURE)
    return (s * (HIGH - LOW) + LOW).clamp(0, 1)


def active(log_alpha: Tensor) -> Tensor:
    """pi = P(z != 0) = sigmoid(la - temp ln(-gamma / zeta))."""
    return torch.sigmoid(log_alpha - SHIFT)


def deterministic(log_alpha: Tensor) -> Tensor:
    """clip(sigmoid(la) (zeta - gamma) + gamma, 0, 1), what a gate is without noise."""
    return (torch.sigmoid(log_alpha) * (HIGH - LOW) + LOW).clamp(0, 1)


def clamped(log_alpha: Tensor) -> Tensor:
    """la within [ln .01, ln 100], for which pi is within [.047137, .997982]."""
    return log_alpha.clamp(-MOST, MOST)


def log_alpha_of(probability: Tensor) -> Tensor:
    """The la within its clamp for which P(z != 0) is nearest to a probability in [0, 1]."""
    return clamped(torch.logit(probability, eps=1e-9) + SHIFT)


def divergence(pi: Tensor, theta: Tensor) -> Tensor:
    """KL(Bern(pi) || Bern(theta)) by element, both in (0, 1)."""
    return pi * (pi.log() - theta.log()) + (1 - pi) * ((-pi).log1p() - (-theta).log1p())
