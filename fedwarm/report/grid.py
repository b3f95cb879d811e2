"""A chart of shares in rows and columns: the larger, the darker."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from fedwarm.report.plots import COLOURS, INK, canvas, frame, inline_svg

MOST_NAMED = 24
EDGE = "#ffffff"


def cells(shares: Sequence[Sequence[float] | None], alt: str, across: str, down: str) -> str:
    """The chart of `drawn` as SVG; `alt` is what it shows, for those who cannot see it."""
    return inline_svg(drawn(shares, across, down), alt)


def drawn(shares: Sequence[Sequence[float] | None], across: str, down: str) -> Figure:
    """Shares in [0, 1]: columns are the first axis, rows the second; a column that is not known is left empty.

    Args:
        shares: of each column, by row.
        across, down: what columns and rows are.
    """
    rows, columns = max((len(each) for each in shares if each is not None), default=0), len(shares)
    figure, axes = canvas(height=1.0 + 0.32 * min(rows, 8))
    for x, each in enumerate(shares):
        for y, share in enumerate(each or ()):
            cell = Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=COLOURS[0], edgecolor=EDGE, linewidth=0.6)
            cell.set_alpha(round(min(1.0, max(0.0, share)), 3))
            axes.add_patch(cell)
    axes.set_xlim(-0.5, columns - 0.5)
    axes.set_ylim(rows - 0.5, -0.5)
    frame(axes)
    axes.grid(visible=False)
    axes.set_xticks(range(0, columns, math.ceil(columns / MOST_NAMED) or 1))
    axes.set_yticks(range(rows), [str(y) for y in range(rows)])
    axes.set_xlabel(across, color=INK)
    axes.set_ylabel(down, color=INK)
    return figure
