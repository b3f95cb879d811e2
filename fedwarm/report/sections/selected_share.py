"""Which share of its images each client's rule selected for distillation, and how that changed over the models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from fedwarm.record.reading import Json, Run, mean
from fedwarm.report import plots
from fedwarm.report.sections import Measure, Section


def shares_of(run: Run) -> list[tuple[int, list[float | None]]]:
    """Of each model, by the round that it is of, the clients' shares; nothing where none was told."""
    models = (run.measured.get("selection") or {}).get("models") or {}
    return sorted((int(number), [None if s is None else float(s) for s in shares]) for number, shares in models.items())


def selected(run: Run) -> float | None:
    """The mean share of the last model."""
    found = shares_of(run)
    return mean(found[-1][1]) if found else None


class Selection(Section):
    """What dynamic selection selected."""

    title, anchor, order = "Selected for distillation", "selection", 26
    text = "The share of a client's images whose teacher was to be followed, in the mean over epochs and clients."
    measures: ClassVar[Mapping[str, Measure]] = {"selected": Measure("selected", "percent", selected)}
    template = (
        "{% from 'macros.html.j2' import charts %}"
        '<p class="soft">The rule <code>{{ shown.rule }}</code> selected {{ shown.mean|percent }} of a client’s images for '
        "the last personal models, in the mean over epochs; from {{ shown.low|percent }} to {{ shown.high|percent }} by "
        "client.</p>\n"
        "{{ charts(shown.figures, id ~ 'selection-') }}"
    )

    def shown(self, run: Run) -> Json | None:
        found = shares_of(run)
        last = [share for share in found[-1][1] if share is not None] if found else []
        if not last:
            return None
        rule = str((run.measured.get("selection") or {}).get("rule", ""))
        return {"rule": rule, "mean": mean(last), "low": min(last), "high": max(last), "figures": self._by_model(run, found)}

    def _by_model(self, run: Run, found: Sequence[tuple[int, list[float | None]]]) -> list[tuple[str, str]]:
        if len(found) < 2:
            return []
        title = "Share of images selected for distillation, by round"
        line = plots.Line("mean over clients", [float(n) for n, _ in found], [mean(shares) for _, shares in found], 0)
        return [(plots.curves([line], f"{title}: {run.title}", span=(0, 1)), f"{title}.")]

    def tables(self, runs: Sequence[Run]) -> list[tuple[str, list[Measure]]]:
        return [(self.title, [self.measures["selected"]])] if any(shares_of(run) for run in runs) else []


COMPONENT = Selection()
