"""How sparse a model became: density by layer and round, groups that are gone or returned, their probabilities in the end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, ScalarFormatter

from fedwarm.record.reading import Json, Run
from fedwarm.report.plots import COLOURS, DASHES, INK, MARKERS, NAMED, Line, canvas, curves, frame, inline_svg, legend
from fedwarm.report.sections import Figures, Measure, Section

COUNTS = {"on": "on", "gone": "gone for good", "returned": "returned in the round"}
MOST_LAYERS = 8


def found(run: Run, name: str = "gates") -> Json:
    """What a run noted of its sparsity; empty where it is not sparse."""
    values = run.measured.get(name)
    return values if isinstance(values, dict) else {}


def density(run: Run) -> float | None:
    """The share of the final model's numbers that is in units which are on."""
    shares = found(run).get("density")
    return float(shares[-1]) if shares else None


def _plain(axes: Axes, label: str, height: str) -> None:
    frame(axes)
    axes.yaxis.set_major_formatter(ScalarFormatter())
    axes.set_xlabel(label, color=INK)
    axes.set_ylabel(height, color=INK)


def groups_by_round(told: Json, alt: str) -> str:
    """How many groups are on, gone and returned, as SVG."""
    figure, axes = canvas(names := list(COUNTS.values()))
    rounds = range(1, len(told["on"]) + 1)
    for style, name in enumerate(COUNTS):
        every = max(1, len(rounds) // 12)
        mark, dash = MARKERS[style], DASHES[style % len(DASHES)]
        axes.plot(rounds, told[name], dash, color=COLOURS[style], marker=mark, ms=5, markevery=every, label=NAMED)
    _plain(axes, "round", "groups")
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    legend(figure, axes, names)
    return inline_svg(figure, alt)


def histogram(theta: Json, alt: str) -> str:
    """Numbers of groups by theta, the layers on one another, as SVG."""
    layers = dict(list(theta["layers"].items())[:MOST_LAYERS])
    figure, axes = canvas(names := [f"layer {name}" for name in layers])
    edges = np.linspace(0, 1, int(theta["bins"]) + 1)
    below = np.zeros(int(theta["bins"]))
    for style, counts in enumerate(layers.values()):
        hatch = ("", "////", "....", "xxxx")[style % 4]
        width = edges[1] - edges[0]
        axes.bar(edges[:-1], counts, width, below, align="edge", color=COLOURS[style % len(COLOURS)], hatch=hatch, label=NAMED)
        below += np.asarray(counts, float)
    _plain(axes, "theta, the probability that a group is on", "groups")
    legend(figure, axes, names)
    return inline_svg(figure, alt)


class Sparsity(Section):
    """Density by layer and round, groups that return, and what is left of a model at some densities."""

    title, anchor, order = "Sparsity", "sparsity", 23
    text = "The share of the final model's numbers that is in units which are on, and accuracies of models pruned by magnitude."
    measures: ClassVar = {"density": Measure("density", "percent", density)}
    template: ClassVar[str] = (
        "{% from 'macros.html.j2' import head, scroll %}"
        "{% call scroll('Sparsity') %}<table>{{ head('', ['value']) }}<tbody>"
        "{% for name, value, form in shown %}"
        '<tr><th scope="row">{{ name }}</th><td>{% if form == "percent" %}{{ value|percent }}{% else %}{{ value }}{% endif %}'
        "</td></tr>{% endfor %}</tbody></table>{% endcall %}"
    )

    def shown(self, run: Run) -> list[tuple[str, Any, str]]:
        told, rows = found(run), list[tuple[str, Any, str]]()
        if told.get("density"):
            rows += [("density of the final model", told["density"][-1], "percent")]
            rows += [(f"density of layer {name}", shares[-1], "percent") for name, shares in told["layers"].items()]
            rows += [("groups", told["groups"], "count"), ("groups that are on", told["on"][-1], "count")]
            rows += [("groups that are gone for good", told["gone"][-1], "count")]
            rows += [("times that a group returned", sum(told["returned"]), "count")]
        pruned = found(run, "pruned").items()
        rows += [(f"accuracy, pruned by magnitude to a density of {share}", value, "percent") for share, value in pruned]
        return rows

    def figures(self, run: Run) -> Figures:
        told = found(run)
        if not told.get("density"):
            return []
        rounds = range(1, len(told["density"]) + 1)
        series = {"all numbers": told["density"], **{f"layer {n}": v for n, v in list(told["layers"].items())[:MOST_LAYERS]}}
        lines = [Line(name, list(rounds), values, style) for style, (name, values) in enumerate(series.items())]
        return [
            (curves(lines, f"Density by layer and round: {run.title}", span=(0, 1)), "Density: numbers in units that are on."),
            (
                groups_by_round(told, f"Groups by round: {run.title}"),
                "Groups that are on, are gone, and have returned.",
            ),
            (histogram(told["theta"], f"Groups by theta: {run.title}"), "Groups by their probability at the end."),
        ]

    def tables(self, runs: Sequence[Run]) -> list[tuple[str, list[Measure]]]:
        shares = sorted({share for run in runs for share in found(run, "pruned")}, key=float, reverse=True)
        columns = [self.measures["density"]] if any(density(run) is not None for run in runs) else []
        columns += [_pruned(share) for share in shares]
        return [("Sparse models", columns)] if columns else []


def _pruned(share: str) -> Measure:
    return Measure(f"accuracy, pruned to {share}", "percent", lambda run: found(run, "pruned").get(share))


COMPONENT = Sparsity()
