"""Into which cohorts a run divided its clients, when, and how far apart their updates were by round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from fedwarm.record.reading import Json, Run
from fedwarm.report import plots
from fedwarm.report.sections import Measure, Section

MOST = 64


def cohorts_of(run: Run) -> dict[int, list[int]]:
    """The clients of each cohort; nothing where clients were not divided."""
    told: Any = run.measured.get("cohorts") or {}
    found: dict[int, list[int]] = {}
    for client, k in enumerate(told.get("clients") or []):
        if isinstance(k, int):
            found.setdefault(k, []).append(client)
    return dict(sorted(found.items()))


def temperatures_of(run: Run) -> list[float | None]:
    """The temperature of each round until then; None where there was none."""
    told: Any = run.measured.get("cohorts") or {}
    return [float(t) if isinstance(t, int | float) else None for t in told.get("temperature") or []]


def count(run: Run) -> float | None:
    """How many cohorts there are; None where clients were not divided."""
    return float(len(cohorts_of(run))) or None


class Cohorts(Section):
    """Who is in which cohort."""

    title, anchor, order = "Cohorts", "cohorts", 27
    text = "How many cohorts clients were divided into, each with a model of its own."
    measures: ClassVar[Mapping[str, Measure]] = {"cohorts": Measure("cohorts", "number", count)}
    template = (
        "{% from 'macros.html.j2' import charts %}"
        '<p class="soft">{% if shown.cohorts %}Divided after round {{ shown.round }}.{% else %}Clients were not divided.'
        "{% endif %} The temperature is how far apart clients’ updates point: 0 where they agree, .5 where they have nothing "
        "in common, 1 where they are opposed.</p>\n"
        "{% if shown.cohorts %}<ul>{% for k, clients in shown.cohorts %}<li>Cohort {{ k }}{% if k == shown.noise %}, of those "
        "that are alike to no others{% endif %}: {{ clients }}</li>{% endfor %}</ul>\n{% endif %}"
        "{{ charts(shown.figures, id ~ 'cohorts-') }}"
    )

    def shown(self, run: Run) -> Json | None:
        cohorts, told = cohorts_of(run), run.measured.get("cohorts") or {}
        if not cohorts and not temperatures_of(run):
            return None
        listed = [(k, _listed(clients)) for k, clients in cohorts.items()][:MOST]
        return {"cohorts": listed, "round": told.get("round"), "noise": told.get("noise"), "figures": self._by_round(run)}

    def _by_round(self, run: Run) -> list[tuple[str, str]]:
        found = temperatures_of(run)
        if len(found) < 2:
            return []
        title = "Temperature by round, until clients were divided"
        line = plots.Line("temperature", [float(number) for number in range(1, len(found) + 1)], found, 0)
        return [(plots.curves([line], f"{title}: {run.title}", span=(0, 1), share=False), f"{title}.")]

    def tables(self, runs: Sequence[Run]) -> list[tuple[str, list[Measure]]]:
        return [(self.title, [self.measures["cohorts"]])] if any(cohorts_of(run) for run in runs) else []


def _listed(clients: Sequence[int]) -> str:
    more = f" and {len(clients) - MOST} more" if len(clients) > MOST else ""
    return f"{len(clients)} client{'s' * (len(clients) > 1)}: {', '.join(map(str, clients[:MOST]))}{more}"


COMPONENT = Cohorts()
