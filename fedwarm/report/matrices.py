"""Charts of tables: confusion matrices with counts, and reliability diagrams, as SVG text (see `fedwarm.report.plots`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import PercentFormatter

from fedwarm.report.plots import COLOURS, INK, WIDTH_INCHES, canvas, frame, inline_svg, legible

MOST_NUMBERED, MOST_NAMED = 12, 30
EDGE = "#ffffff"


def confusion(counts: Sequence[Sequence[int]], classes: Sequence[str], alt: str) -> str:
    """Examples by true class (rows) and answer (columns): the darker, the larger the share of its row; counts in the cells."""
    return inline_svg(confusion_figure(counts, classes), alt)


def confusion_figure(counts: Sequence[Sequence[int]], classes: Sequence[str]) -> Figure:
    """The chart of `confusion`; a row without examples stays empty."""
    n = len(counts)
    figure, axes = canvas(height=WIDTH_INCHES * 0.92)
    for y, row in enumerate(counts):
        for x, count in enumerate(row):
            share = count / sum(row) if count else 0.0
            cell = Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=COLOURS[0], edgecolor=EDGE, linewidth=0.6)
            cell.set_alpha(round(share, 3))
            axes.add_patch(cell)
            if count and n <= MOST_NUMBERED:
                colour = EDGE if share > 0.6 else INK
                axes.text(x, y, str(count), ha="center", va="center", color=colour, fontsize=9 if n <= 10 else 7)
    axes.set_xlim(-0.5, n - 0.5)
    axes.set_ylim(n - 0.5, -0.5)
    frame(axes)
    axes.grid(visible=False)
    names = [legible(name, 16) for name in classes] if len(classes) == n else [str(i) for i in range(n)]
    ticks = range(n) if n <= MOST_NAMED else range(0, n, 5)
    axes.set_xticks(ticks, [names[i] for i in ticks], rotation=90 if max(map(len, names), default=0) > 2 else 0, fontsize=8)
    axes.set_yticks(ticks, [names[i] for i in ticks], fontsize=8)
    axes.set_xlabel("answer", color=INK)
    axes.set_ylabel("true class", color=INK)
    return figure


def reliability(rows: Sequence[Sequence[Any]], others: Sequence[Sequence[Sequence[Any]]], alt: str) -> str:
    """Share of right answers by confidence: (examples, confidence, share) of each bin, the same of `others` as thin lines."""
    return inline_svg(reliability_figure(rows, others), alt)


def reliability_figure(rows: Sequence[Sequence[Any]], others: Sequence[Sequence[Sequence[Any]]] = ()) -> Figure:
    """The chart of `reliability`: dots of an area by their number of examples; on the diagonal confidence is what it says."""
    figure, axes = canvas(height=WIDTH_INCHES * 0.8)
    axes.plot([0, 1], [0, 1], linestyle=(0, (6, 3)), color=INK, linewidth=1)
    for other in others:
        known = [(sure, right) for count, sure, right in other if count]
        axes.plot([sure for sure, _ in known], [right for _, right in known], color=COLOURS[0], linewidth=0.8, alpha=0.45)
    shown = [(count, sure, right) for count, sure, right in rows if count]
    most = max((count for count, _, _ in shown), default=1)
    axes.plot([sure for _, sure, _ in shown], [right for _, _, right in shown], color=COLOURS[0], linewidth=2)
    sizes = [12 + 160 * count / most for count, _, _ in shown]
    axes.scatter([s for _, s, _ in shown], [r for _, _, r in shown], sizes, color=COLOURS[0], zorder=3, clip_on=False)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    frame(axes)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
    axes.set_xlabel("confidence", color=INK)
    axes.set_ylabel("right answers", color=INK)
    return figure
