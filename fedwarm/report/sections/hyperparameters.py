"""Hyperparameters that a run learned beside its weights: how they went, and the settings by which a later run takes them."""

from __future__ import annotations

from itertools import groupby
from typing import Any, ClassVar

import numpy as np
from matplotlib.ticker import MaxNLocator, ScalarFormatter
from numpy.typing import NDArray

from fedwarm.record.reading import Json, Run
from fedwarm.report.plots import COLOURS, DASHES, INK, NAMED, canvas, frame, inline_svg, legend
from fedwarm.report.sections import Figures, Section
from fedwarm.settings.text import literal

Floats = NDArray[np.float64]


def learned(run: Run) -> Json:
    """What a run told of them; nothing where it learned none."""
    found = run.measured.get("psi")
    return found if isinstance(found, dict) and found.get("rounds") else {}


def lines(found: Json) -> list[tuple[str, Floats]]:
    """A label and the values by round (rounds, n) of each hyperparameter; those of one name stand together."""
    values = np.array([entry["values"] for entry in found["rounds"]], np.float64)
    together = groupby(enumerate(found["names"]), key=lambda pair: pair[1])
    return [(name, values[:, [place for place, _ in places]]) for name, places in together]


def called(name: str, values: Floats) -> str:
    """What a line is called in a chart or a table."""
    return name if values.shape[1] == 1 else f"{name}, mean of {values.shape[1]}"


def chart(found: Json, alt: str) -> str:
    """Values over rounds, as SVG: of many with one name their mean, and their range as a band."""
    shown, numbers = lines(found), [entry["round"] for entry in found["rounds"]]
    names = [called(name, values) for name, values in shown]
    figure, axes = canvas(names)
    for style, (_, values) in enumerate(shown):
        colour, dash = COLOURS[style % len(COLOURS)], DASHES[style % len(DASHES)]
        axes.plot(numbers, values.mean(1), dash, color=colour, label=NAMED)
        if values.shape[1] > 1:
            axes.fill_between(numbers, values.min(1), values.max(1), color=colour, alpha=0.15, linewidth=0)
    frame(axes)
    axes.yaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    axes.set_xlabel("round", color=INK)
    legend(figure, axes, names)
    return inline_svg(figure, alt)


class Hyperparameters(Section):
    """Learned hyperparameters by round, and as settings."""

    title, anchor, order = "Hyperparameters", "hyperparameters", 26
    text = "Hyperparameters that runs learned beside their weights."
    template: ClassVar[str] = (
        "{% from 'macros.html.j2' import head, scroll %}"
        '<p class="soft">What was learned beside the weights, and the settings by which a later run takes it.</p>\n'
        "{% call scroll('Hyperparameters') %}<table>{{ head('learned', ['first', 'last']) }}<tbody>"
        "{% for name, first, last in shown.rows %}"
        '<tr><th scope="row">{{ name }}</th><td>{{ "%.4g"|format(first) }}</td><td>{{ "%.4g"|format(last) }}</td></tr>'
        "{% endfor %}</tbody></table>{% endcall %}\n"
        "<pre>{{ shown.settings }}</pre>"
    )

    def shown(self, run: Run) -> Any:
        found = learned(run)
        if not found:
            return None
        rows = [(called(name, values), *values.mean(1)[[0, -1]].tolist()) for name, values in lines(found)]
        return {"rows": rows, "settings": "\n".join(f"{key} = {literal(value)}" for key, value in found["settings"].items())}

    def figures(self, run: Run) -> Figures:
        if not (found := learned(run)):
            return []
        band = " Shaded: lowest to highest." if any(values.shape[1] > 1 for _, values in lines(found)) else ""
        return [
            (chart(found, f"Hyperparameters by round: {run.title}"), f"Hyperparameters by round, as the server has them.{band}")
        ]


COMPONENT = Hyperparameters()
