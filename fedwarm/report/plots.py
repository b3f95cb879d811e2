"""Charts of the report, as text that stands inside an HTML page.

Charts are matplotlib figures made through the object API and written as SVG without links, names or ids of their own; their
colours are CSS variables (`--c0`.. for data, `--ink` and `--rule` for the frame), so that the page decides about light, dark and
print. Series differ in colour (after Okabe and Ito, "Color Universal Design", 2008), marker and dash, never in colour alone.
"""

from __future__ import annotations

import dataclasses
import html
import io
import math
import re
import textwrap
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator, PercentFormatter

from fedwarm.core.forms import byte_text, second_text
from fedwarm.core.text import visible

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
INK, RULE = "#010203", "#040506"
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", "--", ":", "-.")
MOST_THIN_LINES = 40
WIDTH_INCHES = 4.3
ID_PREFIX = "\x1aid-"
"""Of ids inside a chart; no text of a user's can hold it, see `legible`."""
NAMED = "named"
Values = Sequence[float | None]


@dataclass(frozen=True)
class Line:
    """One series: y over x (None: no value), a band from `low` to `high`, thin lines for the `members`; a `level` is flat."""

    label: str
    x: Sequence[float]
    y: Values
    style: int = 0
    low: Values = ()
    high: Values = ()
    members: Sequence[Values] = ()
    level: bool = False


def _short_byte_text(count: float) -> str:
    number, unit = byte_text(count).split()
    return f"{float(number):g} {unit}"


def accuracy_range(values: Sequence[float]) -> tuple[float, float]:
    """The limits of an accuracy axis: whole tenths around the values, at least three of them, within 0 and 1."""
    known = [v for v in values if math.isfinite(v)] or [0.0, 1.0]
    low = max(0.0, math.floor(min(known) * 10 - 0.3) / 10)
    high = min(1.0, math.ceil(max(known) * 10 + 0.3) / 10)
    return min(low, max(0.0, high - 0.3)), max(high, min(1.0, low + 0.3))


def curves(
    lines: Sequence[Line],
    alt: str,
    *,
    of_bytes: bool = False,
    of_seconds: bool = False,
    span: tuple[float, float] | None = None,
    share: bool = True,
    x_label: str = "",
) -> str:
    """`curve_figure` as SVG; `alt` says what the chart shows, for those who cannot see it."""
    figure = curve_figure(lines, of_bytes=of_bytes, of_seconds=of_seconds, span=span, share=share, x_label=x_label)
    return inline_svg(figure, alt)


def curve_figure(
    lines: Sequence[Line], *, of_bytes: bool = False, of_seconds: bool = False, span: tuple[float, float] | None = None,
    share: bool = True, x_label: str = "",
) -> Figure:  # fmt: skip
    """Accuracies over rounds, or over what was spent (logarithmic where it differs by more than a factor of 30).

    Args:
        lines: the series; a legend stands below the axes where there is more than one.
        of_bytes: x is in bytes sent.
        of_seconds: x is in seconds; without either it counts rounds.
        span: limits of the accuracy axis; None: from the values.
        share: whether values are shares, in percent; else they are numbers of any size.
        x_label: what x is, in the place of the usual words; of seconds their unit is put behind it.
    """
    label = x_label or ("bytes sent by all clients so far" if of_bytes else "round")
    if of_seconds:
        seconds, unit = _time_unit(max((x for line in lines for x in line.x), default=0.0))
        lines = [dataclasses.replace(line, x=[x / seconds for x in line.x]) for line in lines]
        label = f"{x_label}, {unit}" if x_label else f"{unit} since the start"
    spent = [x for line in lines if (of_bytes or of_seconds) and not line.level for x in line.x if x > 0]
    logarithmic = bool(spent) and max(spent) > 30 * min(spent)
    lines = [_above_zero(line) for line in lines] if logarithmic else lines
    names = [legible(line.label) for line in lines]
    figure, axes = canvas(names if len(lines) > 1 else None)
    for line in lines:
        _draw(axes, line)
    seen = [v for line in lines for row in (line.y, line.low, line.high, *line.members) for v in row if v is not None]
    frame(axes)
    if span or share:
        axes.set_ylim(*(span or accuracy_range(seen)))
    if not share:
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:.4g}"))
    axes.set_xlabel(label, color=INK)
    if of_bytes or of_seconds:
        _spent_axis(axes, spent, logarithmic, _short_byte_text if of_bytes else "{:g}".format)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    if len(lines) > 1:
        legend(figure, axes, names)
    return figure


def bars(series: Sequence[tuple[str, Values]], alt: str, x_label: str = "client") -> str:
    """`bar_figure` as SVG."""
    return inline_svg(bar_figure(series, x_label), alt)


def bar_figure(series: Sequence[tuple[str, Values]], x_label: str = "client") -> Figure:
    """Accuracies side by side for each client, from 0 to 1; series without any value are left out."""
    shown = [(i, name, values) for i, (name, values) in enumerate(series) if any(v is not None for v in values)]
    count = max((len(values) for _, _, values in shown), default=0)
    figure, axes = canvas([""] * len(shown))
    width = 0.8 / max(1, len(shown))
    for place, (i, name, values) in enumerate(shown):
        x = np.arange(len(values)) + (place - (len(shown) - 1) / 2) * width
        drawn = axes.bar(x, _numbers(values), width * 0.92, label=name, color=COLOURS[i], hatch=("", "////")[i % 2])
        for patch in drawn:
            patch.set_edgecolor("#ffffff")
        if count <= 8:
            texts = ["" if v is None else f"{100 * v:.0f}" for v in values]
            axes.bar_label(drawn, texts, color=INK, fontsize=8, padding=1)
    axes.set_ylim(0, 1.08 if count <= 8 else 1)
    frame(axes)
    axes.set_yticks(np.linspace(0, 1, 6))
    axes.set_xticks(range(0, count, math.ceil(count / 20) or 1))
    axes.set_xlabel(x_label, color=INK)
    figure.legend(loc="outside lower left", frameon=False, labelcolor=INK, fontsize=9)
    return figure


def durations(rows: Sequence[tuple[str, float]], alt: str) -> str:
    """Seconds by name as lying bars, the first on top, as SVG."""
    figure, axes = canvas(height=1.0 + 0.32 * len(rows))
    names = [plain(textwrap.shorten(visible(name), 24)) for name, _ in rows]
    drawn = axes.barh(range(len(rows)), [seconds for _, seconds in rows], 0.7, color=COLOURS[2])
    axes.bar_label(drawn, [second_text(seconds) for _, seconds in rows], color=INK, fontsize=9, padding=3)
    frame(axes)
    axes.invert_yaxis()
    axes.grid(visible=False)
    axes.set_yticks(range(len(rows)), names)
    axes.set_xlim(0, 1.28 * max(1e-9, *(seconds for _, seconds in rows)))
    axes.xaxis.set_visible(False)
    axes.spines["bottom"].set_visible(False)
    return inline_svg(figure, alt)


def _draw(axes: Axes, line: Line) -> None:
    """One series with its band or thin lines; a level is drawn across the whole width."""
    colour = COLOURS[line.style % len(COLOURS)]
    dash, marker = DASHES[line.style // len(COLOURS) % len(DASHES)], MARKERS[line.style % len(MARKERS)]
    if line.level:
        axes.axhline(_known(line.x, line.y)[1][-1], color=colour, linestyle=(0, (6, 3)), linewidth=1.5, label=NAMED)
        return
    members = line.members
    low, high = line.low, line.high
    if len(members) > MOST_THIN_LINES:
        rounds = [[v for v in row if v is not None] for row in zip(*members, strict=True)]
        low, high = ([float(np.quantile(row, q)) if row else None for row in rounds] for q in (0.1, 0.9))
        members = ()
    for member in members:
        axes.plot(*_known(line.x, member), color=colour, linewidth=0.8, alpha=0.45, label="_nolegend_")
    if low and high:
        axes.fill_between(line.x, _numbers(low), _numbers(high), color=colour, alpha=0.18, linewidth=0, label="_nolegend_")
    x, y = _known(line.x, line.y)
    every, size = max(1, math.ceil(len(x) / 12)), 8 if len(x) == 1 else 5
    axes.plot(
        x, y, dash, color=colour, linewidth=2, marker=marker, ms=size, markevery=every, label=NAMED, clip_on=False, zorder=3
    )


def _above_zero(line: Line) -> Line:
    """Without the points where nothing was sent yet, which have no place on a logarithmic axis; a level stays."""
    rows = ([v if x > 0 else None for x, v in zip(line.x, row, strict=False)] for row in (line.y, line.low, line.high))
    y, low, high = rows
    return line if line.level else dataclasses.replace(line, y=y, low=low, high=high)


def _time_unit(most_seconds: float) -> tuple[float, str]:
    """The unit of a time axis: its seconds and its name."""
    return (1.0, "seconds") if most_seconds < 120 else (60.0, "minutes") if most_seconds < 7200 else (3600.0, "hours")


def _spent_axis(axes: Axes, spent: Sequence[float], logarithmic: bool, text: Callable[[float], str]) -> None:
    """From nothing to what was spent, or powers of ten around it; few ticks, as labels are wide."""
    if logarithmic:
        axes.set_xscale("log")
        axes.set_xlim(min(spent) / 1.6, max(spent) * 1.6)
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0,), numticks=6))
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        axes.set_xlim(0, max(spent, default=1) * 1.05)
        axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: text(x)))


def canvas(names: Sequence[str] | None = None, height: float = 2.9) -> tuple[Figure, Axes]:
    """An empty chart and its axes, with room for a legend of these names below, each of which may have several lines."""
    below = 0 if names is None else 0.19 * (1 + sum(name.count("\n") + 1 for name in names))
    figure = Figure(figsize=(WIDTH_INCHES, height + below))
    figure.set_layout_engine("constrained")
    return figure, figure.add_subplot()


def frame(axes: Axes) -> None:
    """Quiet axes: percent up, light rules behind, no box."""
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
    axes.set_axisbelow(True)
    axes.grid(axis="y", color=RULE, linewidth=0.8)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(INK)
    axes.tick_params(axis="both", colors=INK, labelsize=9)
    axes.tick_params(axis="y", length=0)


def legend(figure: Figure, axes: Axes, names: Sequence[str]) -> None:
    """A legend below the axes for what was drawn as `NAMED`, in its order.

    The names are put in last: matplotlib leaves out what has a name that begins with an underscore.
    """
    handles = [handle for handle, named in zip(*axes.get_legend_handles_labels(), strict=True) if named == NAMED]
    drawn = figure.legend(handles, [NAMED] * len(handles), loc="outside lower left", frameon=False, labelcolor=INK, fontsize=9)
    for text, name in zip(drawn.get_texts(), names, strict=True):
        text.set_text(name)


def legible(text: str, width: int = 48) -> str:
    """A text as matplotlib shows it unchanged, in lines of at most `width` characters."""
    return plain(textwrap.fill(visible(text), width))


def plain(text: str) -> str:
    """Without the meaning that matplotlib gives to dollars, and with escapes where characters are no text."""
    whole = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return whole.replace("$", r"\$")


def _known(x: Sequence[float], y: Values) -> tuple[list[float], list[float]]:
    pairs = [(at, value) for at, value in zip(x, y, strict=True) if value is not None]
    return [at for at, _ in pairs], [value for _, value in pairs]


def _numbers(values: Values) -> list[float]:
    return [math.nan if v is None else float(v) for v in values]


def inline_svg(figure: Figure, alt: str) -> str:
    """The figure as an `<svg>` element with a text alternative, CSS variables for colours, and no address of any kind.

    Its inner ids begin with `ID_PREFIX`; who puts it on a page replaces that by something that is there only once.
    """
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": alt}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # the reader's fonts draw the text, not ours
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", text[text.index("<svg") :], flags=re.DOTALL)
    box = re.search(r'viewBox="[^"]*"', text)
    assert box is not None
    named = {name for tag in re.findall(r"<[^>]*>", text) for name in re.findall(r"#([\w-]+)[\")]", tag)}
    used = {name: f"{ID_PREFIX}{i}" for i, name in enumerate(sorted(named))}
    text = re.sub(r"<[^>]*>", lambda tag: _themed(tag[0], used), text[text.index(">") + 1 :])
    head = f'<svg {box.group()} role="img" aria-label="{html.escape(visible(alt), quote=True)}">'
    return re.sub(r"\n\s*", "\n", head + text).strip()


def _themed(tag: str, used: Mapping[str, str]) -> str:
    """One tag with CSS variables for colours, its id only where it is used, and the reader's font; texts between tags stay."""
    tag = re.sub(r" font-family: [^;]*;", "", tag.replace("xlink:href=", "href="))
    for name, colour in [("ink", INK), ("rule", RULE), *((f"c{i}", c) for i, c in enumerate(COLOURS)), ("page", "#ffffff")]:
        tag = tag.replace(colour, f"var(--{name})")
    tag = re.sub(r' id="([^"]*)"', lambda found: f' id="{used[found.group(1)]}"' if found.group(1) in used else "", tag)
    return re.sub(r"#([\w-]+)(?=[\")])", lambda found: "#" + used[found.group(1)], tag)
