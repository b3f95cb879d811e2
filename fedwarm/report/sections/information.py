"""What learning without labels came to: the bound of the views' information by round, and what the final encoder is worth."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from matplotlib.ticker import MaxNLocator, ScalarFormatter

from fedwarm.record.reading import Json, Run
from fedwarm.report.plots import COLOURS, DASHES, INK, MARKERS, NAMED, canvas, curves, frame, inline_svg, legend
from fedwarm.report.plots import Line as Curve
from fedwarm.report.sections import Figures, Measure, Section

PARTS = {
    "bound": "bound of I(z1; z2)",
    "within": "within clients: log N - L",
    "first": "view 1: H(s) + E log r(s | z1)",
    "second": "view 2: E log r(s | z2)",
}
LIE = {"client_accuracy": "clients told apart", "alignment": "alignment", "uniformity": "uniformity"}
WORTH = {"linear": "linear probe", "neighbours": "nearest neighbours"}


def rounds(run: Run) -> list[Json]:
    """What a run measured of the bound, by round."""
    found = run.measured.get("bound")
    return [entry for entry in found.get("rounds", ()) if len(entry) > 1] if isinstance(found, dict) else []


def worth(run: Run) -> Json:
    """Accuracies of the frozen encoder, `pooled` and `by_client`."""
    found = run.measured.get("probes")
    return found if isinstance(found, dict) else {}


def by_client(run: Run, name: str) -> float | None:
    """The mean over clients of their own probe's accuracy."""
    known = [share for share in worth(run).get("by_client", {}).get(name, ()) if share is not None]
    return statistics.fmean(known) if known else None


def pooled(run: Run, name: str) -> float | None:
    """Accuracy of the probe that learned from all clients' images."""
    found = worth(run).get("pooled", {}).get(name)
    return None if found is None else float(found)


def nats(lines: Sequence[tuple[str, Sequence[float]]], numbers: Sequence[int], alt: str) -> str:
    """Series in nats over rounds, as SVG."""
    names = [name for name, _ in lines]
    figure, axes = canvas(names)
    for style, (_, values) in enumerate(lines):
        dash, marker = DASHES[style % len(DASHES)], MARKERS[style % len(MARKERS)]
        axes.plot(
            numbers, values, dash, color=COLOURS[style], marker=marker, ms=5, markevery=max(1, len(numbers) // 12), label=NAMED
        )
    frame(axes)
    axes.yaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    axes.set_xlabel("round", color=INK)
    axes.set_ylabel("nats", color=INK)
    legend(figure, axes, names)
    return inline_svg(figure, alt)


def _of(name: str, measure: Callable[[Run, str], float | None]) -> Callable[[Run], float | None]:
    return lambda run: measure(run, name)


class Information(Section):
    """The bound of the views' information by round, and the encoder's worth."""

    title, anchor, order = "Without labels", "information", 25
    text = "The frozen encoders on test images: probes that learn from each client's labels alone, and from all clients'."
    template: ClassVar[str] = (
        "{% from 'macros.html.j2' import head, scroll %}"
        '<p class="soft">The last round\'s bound and its parts in nats, and the frozen encoder by probes that learn from each '
        "client's labels alone (mean) and from all clients' together.</p>\n"
        "{% call scroll('Without labels') %}<table>{{ head('measured', ['value']) }}<tbody>"
        "{% for name, value, form in shown %}"
        '<tr><th scope="row">{{ name }}</th><td>{% if form == "percent" %}{{ value|percent }}{% else %}{{ "%.3f"|format(value) }}'
        "{% endif %}</td></tr>{% endfor %}</tbody></table>{% endcall %}"
    )

    def shown(self, run: Run) -> list[tuple[str, Any, str]]:
        last = rounds(run)[-1] if rounds(run) else {}
        found = [(text, last[name], "number") for name, text in PARTS.items() if name in last]
        forms = {"client_accuracy": "percent"}
        found += [(text, last[name], forms.get(name, "number")) for name, text in LIE.items() if name in last]
        for name, text in WORTH.items():
            both = ((f"{text}, by client", by_client(run, name)), (f"{text}, pooled", pooled(run, name)))
            found += [(label, value, "percent") for label, value in both if value is not None]
        return found

    def figures(self, run: Run) -> Figures:
        entries = [entry for entry in rounds(run) if "bound" in entry]
        if not entries:
            return []
        numbers = [int(entry["round"]) for entry in entries]
        lines = [(text, [float(entry[name]) for entry in entries]) for name, text in PARTS.items()]
        parts = nats(lines, numbers, f"The bound and its parts by round: {run.title}")
        known = [float(entry["client_accuracy"]) for entry in entries]
        chance = [1 / max(1, run.clients)] * len(numbers)
        apart = curves(
            [Curve("held-out views", numbers, known), Curve("chance", numbers, chance, 1, level=True)],
            f"How often clients are told apart, by round: {run.title}",
        )
        return [(parts, "The bound of what two views share, and its parts, on test images."), (apart, "Clients told apart.")]

    def tables(self, runs: Sequence[Run]) -> list[tuple[str, list[Measure]]]:
        if not any(map(worth, runs)):
            return []
        columns = [
            Measure(f"{text}, {where}", "percent", _of(name, measure))
            for name, text in WORTH.items()
            for where, measure in (("pooled", pooled), ("by client", by_client))
        ]
        return [("Frozen encoders", [column for column in columns if any(column.of(run) is not None for run in runs)])]


COMPONENT = Information()
