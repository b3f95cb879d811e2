"""The accuracy of quantized models against their bits: charts and tables of one run, and of several side by side.

`w4` is the final model with its weights rounded to 4 bits after training, `w4a4` with the inputs of its layers, too. A mark is
filled where training saw that width, as the settings tell it, and hollow where the model was never trained for it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fedwarm.record.reading import Json, Run, mean
from fedwarm.relevance import Run as Relevant
from fedwarm.report.plots import (
    COLOURS,
    DASHES,
    INK,
    MARKERS,
    NAMED,
    WIDTH_INCHES,
    accuracy_range,
    frame,
    inline_svg,
    legend,
    legible,
)

FLOAT_BITS = 32
NAME = re.compile(r"w(\d+)(?:a\1)?")
KINDS = {False: "weights alone", True: "weights and activations"}
HOLLOW = "#ffffff"
MARKS = " Hollow marks: widths that training did not see."


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


def at_bits(run: Run, activations: bool) -> dict[int, float]:
    """The accuracies of the quantized model by bits, most bits first."""
    found = [(match, share) for name, share in run.bit_widths.items() if (match := NAME.fullmatch(name))]
    kept = {int(match[1]): share for match, share in found if ("a" in match[0]) == activations}
    return {bits: kept[bits] for bits in sorted(kept, reverse=True) if bits != FLOAT_BITS}


def of_float(run: Run) -> float | None:
    """The accuracy of the model as it is."""
    return run.bit_widths.get(f"w{FLOAT_BITS}", run.accuracy)


def seen(run: Run, activations: bool) -> frozenset[int]:
    """The widths that training rounded weights to, or weights and the inputs of layers."""
    robust = {key.removeprefix("quantization-robust."): v for key, v in run.settings.items()}
    relaxed = {key.removeprefix("relaxed-quantization."): v for key, v in run.settings.items()}
    chosen = str(Relevant(run.settings, run.method)["objective"])
    if chosen == "rq":
        return _numbers(relaxed.get("bits-weights"), relaxed.get("bits-activations") if activations else None)
    if activations and not (chosen in ("qat", "mqat") and robust.get("quantize-activations")):
        return frozenset()
    if chosen == "mqat" or (chosen == "apqn" and robust.get("apqn-width") == "sampled"):
        return _numbers(robust.get("train-bits"))
    return _numbers(robust.get("bits")) if chosen in ("qat", "apqn") else frozenset()


def _numbers(text: object, same: object = None) -> frozenset[int]:
    """The widths in a setting; none where another setting should be the same and is not."""
    return frozenset() if same not in (None, text) else frozenset(int(part) for part in re.findall(r"\d+", str(text or "")))


# One run


def figures(run: Run) -> list[tuple[str, str]]:
    """The chart of one run with its caption; nothing where no width was measured."""
    lines = [
        WidthLine(text, found, int(both), seen=seen(run, both)) for both, text in KINDS.items() if (found := at_bits(run, both))
    ]
    if not lines:
        return []
    whole = of_float(run)
    dashed = "" if whole is None else " Dashed: the float model."
    marked = any(line.seen for line in lines)
    svg = by_width(lines, f"Accuracy by bits: {run.title}", level=whole, marked=marked)
    return [(svg, f"Accuracy by bits, quantized after training.{MARKS * marked}{dashed}")]


def rows(run: Run) -> list[Json]:
    """One row a width, the float model first: accuracies, what they lost to it in points, and what training saw."""
    whole, kinds = of_float(run), {both: at_bits(run, both) for both in KINDS}
    if not any(kinds.values()):
        return []
    found: list[Json] = [{"bits": "float", "cells": [(whole, None), (whole if kinds[True] else None, None)], "seen": ""}]
    for bits in sorted({b for row in kinds.values() for b in row}, reverse=True):
        shares = [kinds[both].get(bits) for both in KINDS]
        cells = [(share, None if share is None or whole is None else whole - share) for share in shares]
        trained = [text for both, text in KINDS.items() if bits in seen(run, both)]
        found.append({"bits": bits, "cells": cells, "seen": trained[-1] if trained else ""})
    return found


# Several runs


def compared(groups: Mapping[str, Sequence[Run]]) -> list[tuple[str, str]]:
    """A chart for weights alone and one for weights and activations, a line a group: mean and range over its seeds."""
    rows = {both: [_line(label, i, runs, both) for i, (label, runs) in enumerate(groups.items())] for both in KINDS}
    marked = any(line.seen for lines in rows.values() for line in lines)
    found = []
    for both, text in KINDS.items():
        if lines := [line for line in rows[both] if line.accuracies]:
            title = f"Accuracy by bits, {text}"
            band = " Shaded: lowest to highest over seeds." if any(line.low for line in lines) else ""
            found.append((by_width(lines, title, marked=marked), f"{title}.{band}{MARKS * marked}"))
    return found


def _line(label: str, style: int, runs: Sequence[Run], activations: bool) -> WidthLine:
    """Mean and range over the group's runs by bits."""
    measured = [run for run in runs if at_bits(run, activations)]
    every: dict[int, list[float]] = {}
    for run in measured:
        for bits, share in at_bits(run, activations).items():
            every.setdefault(bits, []).append(share)
    means = {bits: sum(shares) / len(shares) for bits, shares in every.items()}
    low, high = ({b: f(s) for b, s in every.items()} if len(measured) > 1 else None for f in (min, max))
    text = f"{label} (mean of {len(measured)})" if len(measured) > 1 else label
    trained = frozenset[int]().union(*(seen(run, activations) for run in measured))
    return WidthLine(text, means, style, low, high, trained, mean(map(of_float, measured)))


# The chart


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
    entries = sum(name.count("\n") + 1 for name in names)
    figure = Figure(figsize=(WIDTH_INCHES, 2.9 + 0.19 * (1 + entries)))
    figure.set_layout_engine("constrained")
    axes = figure.add_subplot()
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
