"""Charts as text: colours, names and coordinates; numbers for people."""

from __future__ import annotations

import html
import re

import pytest

from fedwarm.core.text import visible
from fedwarm.report import plots
from fedwarm.report.by_width import WidthLine, by_width
from fedwarm.report.scatter import Point, points


def test_curves_stay_inside_their_frame() -> None:
    """Zero bytes have no place on a logarithmic axis, and a round without a measurement none on any."""
    line = plots.Line(
        "cost in $ and _under_", [0, 1e3, 2e3, 1e6], [0.1, 0.2, None, 0.9], low=[0.1, 0.1, 0.1, 0.8], high=[0.2] * 3 + [1.0]
    )
    svg = plots.curves([line, plots.Line("level", [0, 0], [0.4, 0.5], 1, level=True)], 'a "quoted" <text>', of_bytes=True)
    assert 'aria-label="a &quot;quoted&quot; &lt;text&gt;"' in svg and "cost in $ and _under_" in svg
    box = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)
    assert box is not None
    across = [float(x) for x in re.findall(r"[ML] (-?[\d.]+) -?[\d.]+", svg)]
    assert len(across) > 10 and all(-10 <= x <= float(box.group(1)) for x in across)
    assert not re.search(r"#[0-9a-f]{6}", svg)


def test_durations_name_their_bars() -> None:
    svg = plots.durations([("adapt", 61.0), ("<distill>", 0.5)], "time")
    assert all(f">{text}</text>" in svg for text in ("adapt", "&lt;distill&gt;", "1 min 01 s", "0.50 s"))
    assert "%" not in svg


def test_accuracy_range_holds_the_values() -> None:
    for low, high in ((0.0, 1.0), (0.9, 0.91), (0.33, 0.35), (0.02, 0.03), (0.999, 1.0)):
        bottom, top = plots.accuracy_range([low, high])
        assert 0 <= bottom <= low and high <= top <= 1 and top - bottom >= 0.3 - 1e-9


LABELS = [
    "$x$ and $y",
    "_lead",
    "[b] <i> &amp;",
    "数字 שלום",
    "#0072b2 (see #fig)",
    'url(#a") font-family: x;',
    r"a\$b",
    "\x1b[31m",
]


def legends(svg: str) -> list[str]:
    texts = [html.unescape(text) for text in re.findall(r"<text[^>]*>([^<]*)</text>", svg)]
    return [text for text in texts if text.strip() and not re.fullmatch(r"[−\d .%]+|round|bits|float|epsilon", text)]


@pytest.mark.filterwarnings("error")
def test_labels_appear_as_they_were_written() -> None:
    """No dollar, underscore, bracket or colour in them means anything, whatever draws them."""
    expected = [visible(label) for label in LABELS]
    assert legends(plots.curves([plots.Line(label, [0, 1], [0.4, 0.5], i) for i, label in enumerate(LABELS)], "alt")) == expected
    assert legends(points([Point(label, 1.0 + i, 0.5) for i, label in enumerate(LABELS)], "alt", "epsilon")) == expected
    lines = [WidthLine(label, {4: 0.5, 8: 0.6}, i) for i, label in enumerate(LABELS)]
    assert legends(by_width(lines, "alt", level=0.7)) == [*expected, "float model"]


def test_long_labels_are_broken_and_not_cut() -> None:
    long = "fedavg, data.name=" + "a_$b" * 40
    told = legends(plots.curves([plots.Line(long, [0], [0.5]), plots.Line("b", [0], [0.4], 1)], "alt"))
    assert "".join("".join(told).split()) == "".join(long.split()) + "b" and len(told) > 3
