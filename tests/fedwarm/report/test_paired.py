"""Paired differences against scipy's own test, and what is said where there is nothing to test."""

from __future__ import annotations

import math

import pytest
from scipy import stats

from fedwarm.report.paired import Difference, difference, gap_text, spread_text


def test_a_difference_is_student_s() -> None:
    values, base = [0.91, 0.88, 0.95, 0.9, 0.87], [0.9, 0.85, 0.93, 0.91, 0.82]
    found, theirs = difference(values, base), stats.ttest_rel(values, base)
    low, high = theirs.confidence_interval(0.95)
    assert found.pairs == 5 and math.isclose(found.mean, 0.02)
    assert (found.low, found.high, found.p) == pytest.approx((low, high, theirs.pvalue), rel=1e-9)


def test_pairs_without_both_sides_are_left_out() -> None:
    assert difference([0.5, None, 0.7, 0.9], [0.4, 0.2, None, 0.6]).pairs == 2
    with pytest.raises(ValueError, match="zip"):
        difference([0.5], [0.5, 0.6])


def test_what_cannot_be_said_is_not_said() -> None:
    assert difference([], []).pairs == 0 and math.isnan(difference([], []).mean)
    one = difference([0.5], [0.25])
    assert one.mean == 0.25 and math.isnan(one.low) and math.isnan(one.p)
    same = difference([0.75, 0.5], [0.5, 0.25])
    assert (same.low, same.mean, same.high) == (0.25, 0.25, 0.25) and math.isnan(same.p)
    for values, base in (([0.9, 0.8], [0.8, 0.7]), ([0.925, 0.85, 0.9], [0.9, 0.825, 0.875])):  # equal but for rounding
        alike = difference(values, base)
        assert math.isnan(alike.p) and alike.low == alike.high == pytest.approx(values[0] - base[0])
    assert [gap_text(each) for each in (difference([], []), one, same)] == ["–", "+25.00", "+25.00 [+25.00, +25.00]"]
    assert gap_text(Difference(5, -0.01, -0.02, 0.0, 0.0456)) == "-1.00 [-2.00, +0.00], p = 0.046"
    assert gap_text(Difference(5, 0.01, 0.005, 0.015, 1e-5)).endswith("p < 0.001")


def test_a_spread_is_mean_and_standard_error() -> None:
    assert spread_text([1.0, 2.0, 3.0]) == "2.00 ± 0.58"
    assert (spread_text([1.0]), spread_text([1.0, math.nan])) == ("1.00", "")
