"""Columns of the comparison: what runs reached, and what they cost."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from fedwarm.record.reading import Run, mean
from fedwarm.report.sections import Measure, sections


def bits_up(run: Run) -> float | None:
    """Mean bits, without headers, that a parameter of the model cost in a client's reply; None where none were counted."""
    totals = json.loads((run.folder / "results.json").read_text(encoding="utf-8"))["totals"]
    paid = totals.get("bits_per_parameter_up")
    return float(paid) if paid else None


REACHED: dict[str, Measure] = {
    "accuracy": Measure("global accuracy", "percent", lambda run: run.accuracy),
    "client_mean": Measure("global, mean over clients", "percent", lambda run: run.client_mean),
    "worst_tenth": Measure("global, worst tenth", "percent", lambda run: run.worst_tenth),
    "personal_mean": Measure("personal, mean", "percent", lambda run: run.personal_mean),
    "personal_worst_tenth": Measure("personal, worst tenth", "percent", lambda run: run.personal_worst_tenth),
    "personal_worst": Measure("personal, worst", "percent", lambda run: run.personal_worst),
    "best": Measure("best", "percent", lambda run: run.best.value if run.best and run.best.share else None),
    "best_value": Measure("best", "number", lambda run: run.best.value if run.best and not run.best.share else None),
    "best_round": Measure("in round", "number", lambda run: run.best.round if run.best else None),
}
SPENT: dict[str, Measure] = {
    "up_per_client": Measure("up per client", "bytes", lambda run: run.up_per_client),
    "up": Measure("bytes up", "bytes", lambda run: run.up),
    "down": Measure("bytes down", "bytes", lambda run: run.down),
    "bits_up": Measure("bits per parameter up", "number", bits_up),
    "seconds": Measure("time", "time", lambda run: run.seconds),
}
LOST: dict[str, Measure] = {
    "epsilon": Measure("epsilon", "number", lambda run: run.epsilon),
    "failures": Measure("replies left out", "number", lambda run: len(run.failures)),
}


def reached(runs: Iterable[Run]) -> dict[str, Measure]:
    """What runs reached; where they watched different things, the best of each is a column."""
    watched = dict.fromkeys((run.best.text, run.best.place, run.best.form) for run in runs if run.best)
    if len(watched) < 2:
        return REACHED
    found = {name: measure for name, measure in REACHED.items() if not name.startswith("best")}
    found |= {f"best {text}{place}": Measure(f"best {text}{place}", form, _best(text, place)) for text, place, form in watched}
    return found | {"best_round": REACHED["best_round"]}


def _best(text: str, place: str) -> Callable[[Run], float | None]:
    return lambda run: run.best.value if run.best and (run.best.text, run.best.place) == (text, place) else None


COST = SPENT | LOST


def costs() -> dict[str, Measure]:
    """What runs cost, with the columns of the report's sections."""
    return SPENT | {name: measure for section in sections() for name, measure in section.measures.items()} | LOST


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation (None for a single value) of what is known."""

    mean: float | None
    deviation: float | None


def spread(values: Iterable[float | None]) -> Spread:
    """The spread of the known values."""
    known = [v for v in values if v is not None]
    return Spread(mean(known), statistics.stdev(known) if len(known) > 1 else None)


def known(measures: dict[str, Measure], runs: Iterable[Run]) -> list[Measure]:
    """The measures that at least one of the runs has a value of."""
    return [measure for measure in measures.values() if any(measure.of(run) is not None for run in runs)]
