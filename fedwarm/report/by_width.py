"""The chart of accuracy against bits: a mark is filled where training saw that width, and hollow where it did not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes

from fedwarm.record.reading import Json
from fedwarm.report.plots import (
    COLOURS,
    DASHES,
    INK,
    MARKERS,
    NAMED,
    accuracy_range,
    canvas,
    frame,
    inline_svg,
    legend,
    legible,
)

HOLLOW = "#ffffff"


@dataclass(frozen=True)
class WidthLine:
    """One series: accuracy in [0, 1] by bits, its range over seeds, the widths that training saw, the float model's accuracy."""

    label: str
    accuracies: Mapping[int, float]
    style: int = 0
    low: Mapping[int, float] | None = None
    high: Mapping[int, float] | None = None
    seen: frozenset[int] = frozenset()
    whole: float | None = None


def by_width(lines: Sequence[WidthLine], alt: str, level: float | None = None, *, marked: bool = False) -> str:
    """Accuracies over bits as SVG, with a legend below.

    Args:
        lines: at least one series, each with a width.
        alt: what the chart shows, for those who cannot see it.
        level: the float model's accuracy, a dashed line; None: each line has its own float model at its right end.
        marked: widths that training did not see are hollow.
    """
    widths = sorted({bits for line in lines for bits in line.accuracies})
    far = widths[-1] + max(1.0, (widths[-1] - widths[0]) / 6)
    names = [*(legible(line.label) for line in lines), *(["float model"] if level is not None else [])]
    figure, axes = canvas(names)
    for line in lines:
        _draw(axes, line, far, line.seen if marked else frozenset(line.accuracies))
    if level is not None:
        axes.axhline(level, color=INK, linestyle=(0, (6, 3)), linewidth=1.5, label=NAMED)
    shares = [v for line in lines for row in (line.accuracies, line.low or {}, line.high or {}) for v in row.values()]
    whole = [v for v in (level, *(line.whole for line in lines)) if v is not None]
    axes.set_ylim(*accuracy_range([*shares, *whole]))
    frame(axes)
    ends = [(far, "float")] if any(line.whole is not None for line in lines) else []
    axes.set_xticks([*widths, *(x for x, _ in ends)], [*map(str, widths), *(text for _, text in ends)])
    axes.set_xlabel("bits", color=INK)
    legend(figure, axes, names)
    return inline_svg(figure, alt)


def _draw(axes: Axes, line: WidthLine, far: float, filled: frozenset[int]) -> None:
    """One series from few bits to float, hollow where training did not see a width."""
    colour, marker = COLOURS[line.style % len(COLOURS)], MARKERS[line.style % len(MARKERS)]
    dash = DASHES[line.style // len(COLOURS) % len(DASHES)]
    x = sorted(line.accuracies)
    if line.low and line.high:
        axes.fill_between(x, [line.low[b] for b in x], [line.high[b] for b in x], color=colour, alpha=0.18, linewidth=0)
    ends = [] if line.whole is None else [(far, line.whole)]
    points = [(float(bits), line.accuracies[bits]) for bits in x] + ends
    look: Json = {"color": colour, "marker": marker, "ms": 6, "mew": 1.5, "clip_on": False, "zorder": 3}
    axes.plot([at for at, _ in points], [share for _, share in points], linestyle=dash, linewidth=2, label=NAMED, **look)
    hollow = [bits for bits in x if bits not in filled]
    if hollow:
        axes.plot(hollow, [line.accuracies[bits] for bits in hollow], linestyle="none", mfc=HOLLOW, **look)
