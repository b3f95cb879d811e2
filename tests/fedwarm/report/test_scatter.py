"""Accuracy against a price: where the marks and bars stand, their names, and colours that the page decides about."""

from __future__ import annotations

import re

import pytest

from fedwarm.report.plots import ID_PREFIX
from fedwarm.report.scatter import Point, points

SHOWN = [
    Point("b = 4, epsilon 1", 0.01, 0.8, 0.02, 0),
    Point("in $ and _under_", 1.0, 0.85, 0.04, 1),
    Point("plain", 100.0, 0.9, None, 2),
]


def drawn(svg: str, style: int) -> tuple[tuple[float, float], list[float]]:
    """Where a style's mark stands, and the heights of its bar's two ends; the legend, drawn last, has as many again."""
    found = re.findall(rf'<use href="#{ID_PREFIX}\d+" x="([\d.]+)" y="([\d.]+)" style="fill: var\(--c{style}\)', svg)
    *ends, mark = [(float(x), float(y)) for x, y in found[: len(found) // 2]]
    assert all(x == mark[0] for x, _ in ends)
    return mark, [y for _, y in ends]


def test_marks_stand_at_the_logarithm_of_the_price_and_at_their_accuracy() -> None:
    svg = points(SHOWN, "accuracy by bits", "bits")
    marks, bars = zip(*(drawn(svg, style) for style in range(3)), strict=True)
    (x0, y0), (x1, y1), (x2, y2) = marks
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.01) and x0 < x1
    assert y0 - y1 == pytest.approx(y1 - y2, abs=0.01) and y0 > y1
    unit = (y0 - y2) / 0.1
    for ends, y, deviation in zip(bars[:2], (y0, y1), (0.02, 0.04), strict=True):
        assert ends == pytest.approx([y + deviation * unit, y - deviation * unit], abs=0.01)
    assert bars[2] == []


def test_every_point_is_named_and_nothing_is_fetched() -> None:
    svg = points(SHOWN, 'a "quoted" <text>', "bits per parameter up")
    assert 'aria-label="a &quot;quoted&quot; &lt;text&gt;"' in svg
    assert all(f">{text}</text>" in svg for text in ("b = 4, epsilon 1", "in $ and _under_", "plain", "bits per parameter up"))
    assert not re.search(r"#[0-9a-f]{6}|https?:", svg)


@pytest.mark.parametrize("prices", [[32.0], [4.0, 8.0], [0.001, 32.0]])
def test_the_axis_has_numbers_however_near_the_prices_are(prices: list[float]) -> None:
    svg = points([Point(f"arm {i}", x, 0.5, None, i) for i, x in enumerate(prices)], "", "bits")
    assert len(re.findall(r">[\d.]+</text>", svg)) >= 1
