"""Paired comparisons: the same seeds, and so equal splits and first weights, on both sides; each seed gives one difference."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

LEVEL = 0.95
ALIKE = 1e-12  # differences that are equal but for rounding


@dataclass(frozen=True)
class Difference:
    """The mean of paired differences, with what Student's t says of it.

    Attributes:
        pairs: how many seeds both sides have.
        mean: of the differences, in the unit of the values; NaN without a pair.
        low, high: 95 % confidence interval of the mean; NaN of fewer than two pairs.
        p: two-sided p value of no difference; NaN of fewer than two pairs, or where all differences are equal.
    """

    pairs: int
    mean: float
    low: float = math.nan
    high: float = math.nan
    p: float = math.nan


def difference(values: Sequence[float | None], base: Sequence[float | None]) -> Difference:
    """What `values` have over `base`, pair by pair; pairs with None on a side are left out.

    Source: Student, "The Probable Error of a Mean", Biometrika 6 (1908).

    Raises:
        ValueError: the two have different lengths.
    """
    gaps = [a - b for a, b in zip(values, base, strict=True) if a is not None and b is not None]
    if len(gaps) < 2:
        return Difference(len(gaps), statistics.fmean(gaps) if gaps else math.nan)
    mean, error = statistics.fmean(gaps), standard_error(gaps)
    if max(gaps) - min(gaps) <= ALIKE * max(1.0, abs(mean)):
        return Difference(len(gaps), mean, mean, mean)
    from scipy.special import stdtr, stdtrit

    freedom = len(gaps) - 1
    reach = float(stdtrit(freedom, (1 + LEVEL) / 2)) * error
    return Difference(len(gaps), mean, mean - reach, mean + reach, 2 * float(stdtr(freedom, -abs(mean / error))))


def standard_error(values: Sequence[float]) -> float:
    """Of the mean of at least two values."""
    return statistics.stdev(values) / math.sqrt(len(values))


def spread_text(values: Sequence[float]) -> str:
    """Mean ± standard error with two digits; empty where a value is NaN, as there was nothing to measure."""
    if any(map(math.isnan, values)):
        return ""
    error = f" ± {standard_error(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{error}"


def gap_text(found: Difference) -> str:
    """A difference of shares in points, as `+1.52 [+0.63, +2.41], p = 0.011`; a dash where there is none."""
    if not found.pairs:
        return "–"
    text = f"{100 * found.mean:+.2f}"
    if math.isnan(found.low):
        return text
    return text + f" [{100 * found.low:+.2f}, {100 * found.high:+.2f}]" + p_text(found.p)


def p_text(p: float) -> str:
    """`, p = 0.011`, or nothing where there is no p value."""
    return "" if math.isnan(p) else ", p < 0.001" if p < 0.001 else f", p = {p:.3f}"
