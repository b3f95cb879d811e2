"""Counts under two-sided geometric noise: differential privacy of a histogram in whole numbers."""

from __future__ import annotations

from collections.abc import Sequence

from fedwarm.privacy.randomness import SYSTEM, Source


def noisy_histogram(counts: Sequence[int], epsilon: float, source: Source = SYSTEM) -> list[int]:
    """Counts plus independent noise Z with P(Z = z) proportional to exp(-epsilon |z|); epsilon 0: the counts.

    One example that counts or does not changes one count by one, so what is told is epsilon-differentially private (Ghosh,
    Roughgarden, Sundararajan, "Universally Utility-Maximizing Privacy Mechanisms", STOC 2009) at adjacency `zero_out`. An example
    exchanged for one of another class changes two counts and costs twice; so does telling it twice.
    """
    return [n + two_sided_geometric(epsilon, source) for n in counts] if epsilon else list(counts)


def two_sided_geometric(epsilon: float, source: Source = SYSTEM) -> int:
    """A draw by whole numbers alone (Canonne, Kamath, Steinke, arXiv 2004.00010, algorithm 2): no rounding changes its law."""
    s, t = epsilon.as_integer_ratio()
    while True:
        u = _below(t, source)
        if not _bernoulli_exp(u, t, source):
            continue
        whole = 0
        while _bernoulli_exp(1, 1, source):
            whole += 1
        size, negative = (u + t * whole) // s, _below(2, source)
        if size or not negative:
            return -size if negative else size


def _bernoulli_exp(numerator: int, denominator: int, source: Source) -> bool:
    """True with probability exp(-numerator / denominator), for a ratio of at most 1 (the same, algorithm 1)."""
    k = 1
    while _below(denominator * k, source) < numerator:
        k += 1
    return k % 2 == 1


def _below(bound: int, source: Source) -> int:
    """Uniform in 0 .. bound - 1."""
    bits = max(1, (bound - 1).bit_length())
    size = (bits + 7) // 8
    while True:
        drawn = int.from_bytes(source(size), "big") >> (8 * size - bits)
        if drawn < bound:
            return drawn
