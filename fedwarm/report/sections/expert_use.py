"""Which of several models each client uses, by how many of its images each is responsible for, and how that changed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from fedwarm.record.reading import Json, Run, mean
from fedwarm.report import plots
from fedwarm.report.grid import cells
from fedwarm.report.sections import Measure, Section

MOST_CLIENTS, MOST_EXPERTS = 200, 12


def shares_of(mass: Any) -> list[float] | None:
    """Masses as shares; None where none is known."""
    if not isinstance(mass, list) or not all(isinstance(m, int | float) and m >= 0 for m in mass) or not sum(mass):
        return None
    return [m / sum(mass) for m in mass]


def clients_of(run: Run) -> list[list[float] | None]:
    """The shares of each client's images by expert, in its last round; nothing where there are no experts."""
    told = run.measured.get("usage") or {}
    found = [shares_of(each) for each in told.get("clients") or []]
    return found if any(each is not None for each in found) else []


def used(run: Run) -> float | None:
    """Experts that a client uses, in the mean: e to the entropy of its shares."""
    known = [each for each in clients_of(run) if each is not None]
    return mean([math.exp(-sum(s * math.log(s) for s in each if s)) for each in known]) if known else None


def by_round(run: Run) -> list[tuple[str, str]]:
    """The share of all images that each expert is responsible for, by round."""
    told = [shares_of(each) for each in (run.measured.get("usage") or {}).get("rounds") or []]
    rounds = [(number, each) for number, each in enumerate(told, 1) if each is not None]
    count = max((len(each) for _, each in rounds), default=0)
    if not 1 < count <= MOST_EXPERTS or len(rounds) < 2:
        return []
    lines = [
        plots.Line(f"expert {k}", [n for n, _ in rounds], [each[k] if k < len(each) else None for _, each in rounds], k)
        for k in range(count)
    ]
    title = "Share of all images that each expert is responsible for, by round"
    return [(plots.curves(lines, f"{title}: {run.title}", span=(0, 1)), f"{title}.")]


class Usage(Section):
    """Which experts each client uses."""

    title, anchor, order = "Experts", "experts", 25
    text = "How many of the experts a client uses, in the mean over clients."
    measures: ClassVar[Mapping[str, Measure]] = {"experts_used": Measure("experts a client", "number", used)}
    template = (
        "{% from 'macros.html.j2' import charts %}"
        '<p class="soft">The share of its images that each expert is responsible for, by client; a client uses '
        "{{ shown.used|number }} of {{ shown.experts }} experts in the mean.</p>\n"
        "{{ charts(shown.figures, id ~ 'experts-', 'wide') }}"
    )

    def shown(self, run: Run) -> Json | None:
        every = clients_of(run)
        if not every:
            return None
        first = every[:MOST_CLIENTS]
        more = f" The first {MOST_CLIENTS} of {len(every)} clients." if len(every) > MOST_CLIENTS else ""
        chart = cells(first, f"Experts by client: {run.title}", "client", "expert")
        caption = f"Experts of each client: the darker, the more of its images.{more}"
        return {"figures": [(chart, caption), *by_round(run)], "used": used(run), "experts": max(len(e) for e in every if e)}

    def tables(self, runs: Sequence[Run]) -> list[tuple[str, list[Measure]]]:
        return [("Experts", [self.measures["experts_used"]])] if any(clients_of(run) for run in runs) else []


COMPONENT = Usage()
