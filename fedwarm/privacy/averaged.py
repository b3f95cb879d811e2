"""What a sum of coded updates hides by itself: every other client's vector holds normal noise, so the sum does.

Random coding names one of K candidates. In a block with ||v|| = c sigma, u = v / ||v||, the chosen candidate is N(0, I) across u,
and along u its coordinate t has the density p = phi g, g(t) = E[K e^{ct} / (e^{ct} + W)] with W the other candidates' weights.

1. 1 / (a + W) is convex in W, so g(t) >= K / (1 + (K - 1) e^{c^2 / 2 - ct}) (Jensen).
2. Hence p >= w N(a, tau^2) with w the least ratio of that bound to the normal density, for any a: a vector holds, with
   probability w, noise N(0, tau^2 sigma^2 I) that is independent of all else, for along other directions it has N(0, sigma^2).
3. 0 <= (ln g)' <= c, so N(0, 1) <= p <= N(c, 1) in the likelihood ratio order: the client's own coordinates with and without its
   update can be coupled so that they differ by at most c. Over blocks they move the sum by at most ||v|| <= C.
4. Where at least g of the others hold their noise in every block, the pair of sums is a mixture over the coupling of shifts by at
   most C under N(0, g tau^2 sigma^2 I), and by joint convexity no hockey-stick divergence, in either direction, is larger than
   that of N(C, g tau^2 sigma^2) and N(0, g tau^2 sigma^2). That fails with the probability of a binomial tail, which delta pays.
5. Domination survives Poisson sampling, which maps such divergences monotonically, and composition (Zhu, Dong, Wang, "Optimal
   Accounting of Differential Privacy via Characteristic Function", AISTATS 2022).

All five steps are derived here. They take seeds and cohorts as secret, candidates as exactly normal, and all clients of a round
as adding their noise. Vectors of nobody have w = tau = 1; w is the least over all norms up to the blocks' cap.
"""

from __future__ import annotations

from functools import lru_cache
from math import ceil, exp, log, sqrt

import numpy as np

from fedwarm.privacy.random_coding import Curve

VARIANCES = np.concatenate([np.arange(0.6, 0.8, 0.04), np.arange(0.8, 0.985, 0.01), [0.99, 0.993, 0.996, 0.998]])
NORMS, STEP, WIDEST, CENTRES, REACH = 8, 1 / 64, 16.0, 65, 14.0
MARGIN = 1e-3
LARGEST = 40.0  # epsilon up to which that holds
RESERVED = 0.1


def log_density_ratio(t: Curve, bits: int, norm: float) -> Curve:
    """ln of the bound of step 1 on g at t, for a block with ||v|| = norm sigma and 2^bits candidates."""
    return np.asarray(bits * log(2) - np.logaddexp(0.0, np.log(2.0**bits - 1) + norm**2 / 2 - norm * t))


def share(bits: int, norm: float, variance: float) -> float:
    """w of step 2 for one norm c and tau^2 = variance < 1: max over a of min over t of p(t) / N(t; a, tau^2).

    Far out on the right g is nearly K, the ratio falls on and is least at a / (1 - tau^2), where nothing lies. So t is within
    `REACH` tau of a, and what a normal has beyond that is paid by the slack, 1 + e^epsilon times as it is missing on both
    sides. A grid of 0.04 is wrong by less than 3e-4, for which `shares` has a margin.
    """
    t = np.arange(-REACH, norm + REACH, 0.04)
    base = log_density_ratio(t, bits, norm) - t**2 / 2 + log(variance) / 2
    far, within = t - np.linspace(0.0, norm, CENTRES)[:, None], REACH * sqrt(variance)
    least = np.where(np.abs(far) <= within, base + far**2 / (2 * variance), np.inf).min(axis=1)
    return float(np.exp(least.max()))


@lru_cache(maxsize=512)
def shares(bits: int, steps: int) -> Curve:
    """w for each of `VARIANCES`: the least over norms up to steps / 64 (it falls with the norm), with a margin of 1e-3."""
    norms = np.linspace(0.0, steps * STEP, min(NORMS, steps + 1))[1:]
    return np.array([min(share(bits, float(c), float(v)) for c in norms) for v in VARIANCES]) - MARGIN


def hidden(bits: int, cap: float, blocks: int, others: int, slack: float) -> float:
    """g tau^2, the variance in units of sigma^2 of the noise that a sum surely holds beside one client's own vector.

    Args:
        bits: b, K = 2^b candidates a block.
        cap: the most that ||v_j|| / sigma can be in a block.
        blocks: of an update.
        others: n - 1, the other vectors of a sum.
        slack: the probability with which some block may hold less.
    """
    from scipy.special import bdtr, ndtr

    if others < 1 or cap > WIDEST:
        return 0.0
    counts, best = np.arange(1, others + 1), 0.0
    slack -= blocks * others * 2 * float(ndtr(-REACH)) * (1 + exp(LARGEST))
    for w, variance in zip(shares(bits, max(1, ceil(cap / STEP - 1e-9))), VARIANCES, strict=True):
        fits = blocks * bdtr(counts - 1, others, max(float(w), 0.0)) <= slack
        best = max(best, float(variance * counts[fits].max(initial=0)))
    return best
