"""Metrics beside accuracy: curves over rounds, the last values of each client, confusion matrices and calibration."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

from fedwarm.record.reading import Json, Round, Run, mean
from fedwarm.report import plots
from fedwarm.report.matrices import confusion, reliability
from fedwarm.report.sections import Figures, Measure, Section

MOST_ROWS, MOST_MATRICES = 100, 5
BINS, COLUMNS = 15, 3  # of a table by confidence


def words_of(run: Run) -> dict[str, Json]:
    """What is known of each metric that a run measured, by name."""
    found: dict[str, Json] = run.evaluation.get("metrics") or {}
    return found


def of_clients(one: Round, name: str, own: bool = False) -> list[float | None]:
    """A round's values of a metric by client, of the global model or of their own."""
    told = (one.own_metrics if own else one.metrics).get(name) or {}
    return list(told.get("per_client") or [])


def curves(run: Run) -> Figures:
    """A chart for each metric: the global model with its clients as thin lines, clients' own models, and validation."""
    found: Figures = []
    for name, words in words_of(run).items():
        if lines := lines_of(run, name):
            text, way = words["title"], f", {words['better']} is better" if words["better"] else ""
            span = plots.accuracy_range(_values(lines)) if words["share"] else None
            alt = f"{text} by round: {run.title}"
            thin = "; thin: each client" if run.clients <= plots.MOST_THIN_LINES else "; shaded: the middle 80 % of the clients"
            found.append((plots.curves(lines, alt, span=span, share=bool(words["share"])), f"{text} by round{way}{thin}."))
    return found


def lines_of(run: Run, name: str) -> list[plots.Line]:
    """The lines of a metric that there are values of, where more than one round was measured."""
    x = [float(one.number) for one in run.rounds]
    shared = [(one.metrics.get(name) or {}).get("value") for one in run.rounds]
    own = [mean(of_clients(one, name, own=True)) for one in run.rounds]
    held = [(((one.validation.get("global") or {}).get("metrics") or {}).get(name) or {}).get("value") for one in run.rounds]
    every = [
        plots.Line("global model", x, shared, 0, members=_members(run, name)),
        plots.Line("personal, mean", x, own, 1, members=_members(run, name, own=True)),
        plots.Line("global model, validation", x, held, 2),
    ]
    return [line for line in every if sum(value is not None for value in line.y) > 1]


def _members(run: Run, name: str, own: bool = False) -> list[list[float | None]]:
    rows = [of_clients(one, name, own) for one in run.rounds]
    return [list(each) for each in zip_longest(*rows)]


def _values(lines: Sequence[plots.Line]) -> list[float]:
    return [value for line in lines for row in (line.y, *line.members) for value in row if value is not None]


def pictures(run: Run) -> Figures:
    """The tables of the last round: all test examples, then a client each where there are few."""
    found: Figures = []
    for name, table in run.tables.items():
        title = str((words_of(run).get(name) or {}).get("title", name))
        parts = [("all test examples", table.get("all"))]
        by_client = list(table.get("per_client") or [])
        if is_square(table.get("all")):
            parts += [(f"client {run.called(k)}", one) for k, one in enumerate(by_client[:MOST_MATRICES])]
            shade = "counts; the darker, the larger the share of the true class"
            found += [
                (confusion(part, run.classes, f"{title}, {who}"), f"{title}, {who}: {shade}.") for who, part in parts if part
            ]
        elif table.get("all"):
            others = [one for one in by_client if one]
            thin = " Thin: each client." if len(others) > 1 else ""
            chart = reliability(table["all"], others if len(others) > 1 else [], f"{title}: {run.title}")
            found.append(
                (chart, f"Right answers by confidence ({title}); dots by examples, on the dashed line they agree.{thin}")
            )
    return found


def is_square(table: Any) -> bool:
    """Whether a table is one of counts by two classes."""
    return bool(table) and all(isinstance(row, list) and len(row) == len(table) for row in table)


def rows(run: Run) -> list[Json]:
    """One row a client: its last values by metric, of the global model and of its own."""
    last = run.rounds[-1] if run.rounds else None
    if last is None:
        return []
    columns = [(words, of_clients(last, name, own)) for name, words in words_of(run).items() for own in (False, True)]
    shown = [(words, values) for words, values in columns if any(value is not None for value in values)]
    return [
        {"client": run.called(k), "cells": [(v[k] if k < len(v) else None, _form(words)) for words, v in shown]}
        for k in range(min(run.clients, MOST_ROWS) if shown else 0)
    ]


def headings(run: Run) -> list[str]:
    """Headings of the columns of `rows`."""
    last, whose = run.rounds[-1], ((False, ""), (True, ", own model"))
    columns = [(name, str(words["title"]) + text, own) for name, words in words_of(run).items() for own, text in whose]
    return [title for name, title, own in columns if any(value is not None for value in of_clients(last, name, own))]


def _form(words: Json) -> str:
    return "percent" if words.get("share") else "number"


def final(name: str, run: Run) -> float | None:
    """The global model's last value of a metric, else the mean of the clients' own models."""
    last = run.rounds[-1] if run.rounds else None
    value = None if last is None else (last.metrics.get(name) or {}).get("value")
    return value if value is not None or last is None else mean(of_clients(last, name, own=True))


class ByMetric(Section):
    """Metrics beside accuracy, and how sure the model is of what."""

    title, anchor, order = "Metrics", "metrics", 10
    text = "The final models' metrics on all clients' test examples."
    template = (
        "{% from 'macros.html.j2' import charts, head, scroll %}"
        "{{ charts(shown.figures, id ~ 'metrics-') }}\n"
        "{% if shown.rows %}"
        '<p class="soft">The last values on each client\'s own test examples. Those of all clients together are '
        "{% for title, pooled in shown.pooled %}{{ title }}: {{ pooled }}{{ '; ' if not loop.last }}{% endfor %}.</p>\n"
        "{% call scroll('Metrics by client', shown.rows|length) %}<table>{{ head('client', shown.headings) }}<tbody>"
        '{% for row in shown.rows %}<tr><th scope="row">{{ row.client }}</th>'
        "{% for value, form in row.cells %}<td>{{ '–' if value is none else value|apply(form) }}</td>{% endfor %}</tr>"
        "{% endfor %}"
        "</tbody></table>{% endcall %}{% endif %}"
    )

    def shown(self, run: Run) -> Json | None:
        if not words_of(run):
            return None
        told = rows(run)
        pooled = [(words["title"], words["pooled"]) for words in words_of(run).values()]
        return {
            "figures": [*curves(run), *pictures(run)],
            "rows": told,
            "headings": headings(run) if told else [],
            "pooled": pooled,
        }

    def tables(self, runs: Sequence[Run]) -> list[tuple[str, list[Measure]]]:
        every = {name: words for run in runs for name, words in words_of(run).items()}
        columns = [
            Measure(words["title"].lower(), _form(words), lambda run, name=name: final(name, run))  # type: ignore[misc]
            for name, words in every.items()
        ]
        known = [column for column in columns if any(column.of(run) is not None for run in runs)]
        return [("Metrics", known)] if known else []


COMPONENT = ByMetric()
