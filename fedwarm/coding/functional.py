"""The Poisson functional representation of N(v, sigma^2 I) over shared candidates of N(0, sigma^2 I): its choice and its lengths.

Li, El Gamal, "Strong Functional Representation Lemma and Applications to Coding Theorems", IEEE Trans. Information Theory 64
(2018). Candidates z_1, z_2, .. of a block meet the arrival times T_1 < T_2 < .. of a Poisson process of rate 1, which are
private; the k with the least T_k / w_k, where w_k = p(z_k) / q(z_k), is sent, and z_k has exactly the law of p. All in units of
sigma: ln w = <z, v> - c^2 / 2 with c = ||v||.

How long it takes (derived): the least value, Theta, is exponential and independent of the chosen z; how many came before it is
Poisson with mean Theta h, h = E_q (W - w)_+ at the chosen weight W. So the index less 1 is geometric, and
P(k > N | W) = (h / (1 + h))^N, with ln W = c^2 / 2 + c g, g ~ N(0, 1), and h = W Phi(c + g) - Phi(g). h grows with c at every g,
as its derivative is W ((c + g) Phi(c + g) + phi(c + g)) > 0: a block at its cap takes longest, in law.
"""

from __future__ import annotations

from functools import lru_cache
from math import exp, log

import numpy as np
from numpy.typing import NDArray

from fedwarm.coding import rec
from fedwarm.coding.packing import CodeError
from fedwarm.coding.streams import Key, Words
from fedwarm.privacy.randomness import Source, uniforms

Vector = NDArray[np.float64]
AT_ONCE = 16
MOST_CANDIDATES = 1 << 20
REACH, STEP = 12.0, 0.01  # of the quadrature: what a normal has beyond 12 is below 2e-33


def later_winners(norm: float, least: float, arrival: float) -> float:
    """How many candidates that arrive after `arrival` beat the value `least`, in the mean; what stops there errs no more often.

    It is least E_q (w - L)_+ with L = arrival / least, that is least (Phi(c / 2 - ln L / c) - L Phi(-c / 2 - ln L / c)).
    """
    from scipy.special import ndtr

    ratio = log(arrival / least) / norm
    return float(least * ndtr(norm / 2 - ratio) - arrival * ndtr(-norm / 2 - ratio))


def choose(key: Key, v: Vector, words: Words, source: Source, tolerance: float, most: int) -> int:
    """The number, from 1 on, of the candidate that stands for one block.

    Args:
        key: of the block's candidates.
        v: the block (m,), in units of sigma.
        words: the candidates' generator.
        source: private bytes for the arrival times.
        tolerance: stop where a later candidate would win with no more than this probability.
        most: candidates that are tried at most, a multiple of 16.
    """
    norm = float(np.sqrt(v @ v))
    if norm == 0:
        return 1  # all weights are 1: the first arrival wins
    best, index, arrived, tried = np.inf, 1, 0.0, 0
    while tried < most:
        times = arrived - np.cumsum(np.log(uniforms(AT_ONCE, source)))
        values = np.log(times) - (rec.weigh(key, v, tried, AT_ONCE, words) - norm**2 / 2)
        first = int(np.argmin(values))
        if values[first] < best:
            best, index = float(values[first]), tried + first + 1
        arrived, tried = float(times[-1]), tried + AT_ONCE
        if later_winners(norm, exp(best), arrived) <= tolerance:
            break
    return index


@lru_cache(maxsize=64)
def _law(norm: float) -> tuple[Vector, Vector]:
    """(weights of the nodes of g, ln h / (1 + h) at them) for a block with ||v|| = norm."""
    from scipy.special import log_ndtr

    g = np.arange(-REACH, REACH + STEP, STEP)
    log_weight, log_rest = norm**2 / 2 + norm * g + log_ndtr(norm + g), log_ndtr(g)
    log_h = log_weight + np.log(-np.expm1(np.minimum(log_rest - log_weight, -1e-300)))
    return np.exp(-(g**2) / 2) * STEP / np.sqrt(2 * np.pi), -np.logaddexp(0.0, -log_h)


def beyond(norm: float, number: int) -> float:
    """P(index > number) for a block with ||v|| = norm."""
    nodes, logs = _law(norm)
    return float(nodes @ np.exp(number * logs))


@lru_cache(maxsize=64)
def most_candidates(norm: float, tolerance: float) -> int:
    """The fewest candidates, a multiple of 16, beyond which an index lies with at most this probability.

    Raises:
        CodeError: that takes more than can be tried.
    """
    high = AT_ONCE
    while beyond(norm, high) > tolerance:
        high *= 2
        if high > MOST_CANDIDATES:
            raise CodeError(f"a block of norm {norm:.3g} sigma takes more than {MOST_CANDIDATES} candidates; take smaller blocks")
    low = high // 2
    while high - low > AT_ONCE:
        middle = (low + high) // (2 * AT_ONCE) * AT_ONCE
        low, high = (low, middle) if beyond(norm, middle) <= tolerance else (middle, high)
    return high


def block_lengths(norm: float, most: int) -> Vector:
    """P(the index takes 2 i + 1 bits), i = 0 .. floor(log2 most), for a block with ||v|| = norm; the longest has the rest."""
    tails = [1.0, *(beyond(norm, 2**i - 1) for i in range(1, most.bit_length())), 0.0]
    return np.asarray(-np.diff(tails))


@lru_cache(maxsize=64)
def message_bits(norm: float, blocks: int, tolerance: float, most: int) -> int:
    """The fewest bits that so many blocks of norm `norm` exceed with at most this probability."""
    law, total, power = block_lengths(norm, most), np.ones(1), blocks
    while power:
        if power & 1:
            total = np.convolve(total, law)
        law, power = np.convolve(law, law), power >> 1
    longer = np.append(np.cumsum(total[:0:-1])[::-1], 0.0)  # P(more than i pairs of bits)
    return blocks + 2 * int(np.argmax(longer <= tolerance))
