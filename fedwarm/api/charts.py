"""Charts of a run as matplotlib figures, for notebooks and papers; the report's own, in colours for a white page."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from fedwarm.record.run import Json, Run
from fedwarm.report.plots import Line, Values, bar_figure, curve_figure

GRID = "#d5d8dc"


def charts(run: Run, history: Sequence[Json], others: Mapping[str, Json]) -> dict[str, Figure]:
    """Accuracy by round, by bytes uploaded, and by client, and other metrics by round; those that the run has numbers for.

    Args:
        history: a row a round, with the metrics by name.
        others: what is known of the metrics beside accuracy, by name: `title`, and whether it is a `share`.
    """
    found: dict[str, Figure] = {}
    lines = _lines(run, [float(r.number) for r in run.rounds])
    if lines:
        found["rounds"] = curve_figure(lines)
    sent = [float(total) for total in itertools.accumulate(sum(r.up) for r in run.rounds)]
    if lines and sent[-1] > 0:
        found["bytes"] = curve_figure(_lines(run, sent, members=False), of_bytes=True)
    bars: list[tuple[str, Values]] = [("global model", run.last("clients")), ("personal model", run.last("personal"))]
    if any(value is not None for _, values in bars for value in values):
        found["clients"] = bar_figure(bars)
    found |= {
        name: _metric(name, history, told) for name, told in others.items() if any(row.get(name) is not None for row in history)
    }
    for figure in found.values():
        _lighten(figure)
    return found


def _lines(run: Run, x: list[float], *, members: bool = True) -> list[Line]:
    """The global model's and the personal models' accuracy over x, where the run has them."""
    shared = Line("global model", x, [r.accuracy for r in run.rounds], 0, members=_members(run, "clients") if members else ())
    own = Line(
        "personal, mean", x, [r.personal_mean for r in run.rounds], 1, members=_members(run, "personal") if members else ()
    )
    return [line for line in (shared, own) if any(value is not None for value in line.y)]


def _metric(name: str, history: Sequence[Json], told: Json) -> Figure:
    """One metric of the global model by round; what is no share of something has an axis of plain numbers."""
    values = [row.get(name) for row in history]
    figure = curve_figure(
        [Line(name, [float(row["round"]) for row in history], values, 0)], span=None if told.get("share") else (0, 1)
    )
    (axes,) = figure.axes
    axes.set_title(str(told.get("title", name)), loc="left", fontsize=10)
    if not told.get("share"):
        axes.autoscale(axis="y")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:.4g}"))
    return figure


def _members(run: Run, kind: str) -> list[list[float | None]]:
    """Accuracies by client, then round."""
    return [list(row) for row in itertools.zip_longest(*(getattr(r, kind) for r in run.rounds))]


def _lighten(figure: Figure) -> None:
    """Grid lines in light grey; the report's page sets their colour by its style."""
    for axes in figure.axes:
        for line in axes.get_ygridlines():
            line.set_color(GRID)
