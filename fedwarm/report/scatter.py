"""A chart of single results: accuracy against one number that was paid for it, with the spread over seeds, as SVG text.

It follows `fedwarm.report.plots` in colours, markers and frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from fedwarm.report.plots import COLOURS, INK, MARKERS, NAMED, accuracy_range, canvas, frame, inline_svg, legend, legible


@dataclass(frozen=True)
class Point:
    """One result: accuracy y in [0, 1] at x > 0, and its sample standard deviation (None of a single run)."""

    label: str
    x: float
    y: float
    deviation: float | None = None
    style: int = 0


def points(shown: Sequence[Point], alt: str, x_label: str) -> str:
    """Accuracies over a logarithmic axis, a bar of one standard deviation up and down, and a legend below.

    Args:
        shown: at least one result.
        alt: what the chart shows, for those who cannot see it.
        x_label: what x is.
    """
    names = [legible(point.label) for point in shown]
    figure, axes = canvas(names)
    for point in shown:
        marker, colour = MARKERS[point.style % len(MARKERS)], COLOURS[point.style % len(COLOURS)]
        bar = [point.deviation] if point.deviation else None
        axes.errorbar([point.x], [point.y], bar, fmt=marker, color=colour, ms=8, capsize=4, elinewidth=1.5, label=NAMED, zorder=3)
    spans = [point.y + side * (point.deviation or 0.0) for point in shown for side in (-1, 1)]
    frame(axes)
    axes.set_ylim(*accuracy_range(spans))
    axes.set_xscale("log")
    low, high = min(point.x for point in shown) / 2, max(point.x for point in shown) * 2
    axes.set_xlim(low, high)
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0,) if high > 50 * low else (1.0, 2.0, 5.0), numticks=8))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.set_xlabel(x_label, color=INK)
    legend(figure, axes, names)
    return inline_svg(figure, alt)
