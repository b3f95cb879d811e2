"""Several runs side by side: grouped where they differ in the seed only, labelled by method and by the settings that differ."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedwarm.catalogue import Owned, all_groups, owners
from fedwarm.record.reading import Json, Round, Run, mean
from fedwarm.relevance import matters
from fedwarm.report import plots
from fedwarm.report.scatter import Point, points
from fedwarm.report.sections import widths as bits
from fedwarm.settings.fields import keys
from fedwarm.settings.kinds import METHODS

PLACES = {"seed", "out", "client-folder", "method", "resume", "tracker", "client-state-mb"}


def bits_up(run: Run) -> float | None:
    """Mean bits, without headers, that a parameter of the model cost in a client's reply; None where none were counted."""
    totals = json.loads((run.folder / "results.json").read_text(encoding="utf-8"))["totals"]
    paid = totals.get("bits_per_parameter_up")
    return float(paid) if paid else None


@dataclass(frozen=True)
class Measure:
    """A column of the comparison; `form` says how its numbers are written: percent, bytes, time or number."""

    heading: str
    form: str
    of: Callable[[Run], float | None]


REACHED: dict[str, Measure] = {
    "accuracy": Measure("global accuracy", "percent", lambda run: run.accuracy),
    "client_mean": Measure("global, mean over clients", "percent", lambda run: run.client_mean),
    "worst_tenth": Measure("global, worst tenth", "percent", lambda run: run.worst_tenth),
    "personal_mean": Measure("personal, mean", "percent", lambda run: run.personal_mean),
    "personal_worst_tenth": Measure("personal, worst tenth", "percent", lambda run: run.personal_worst_tenth),
    "personal_worst": Measure("personal, worst", "percent", lambda run: run.personal_worst),
    "best": Measure("best", "percent", lambda run: run.best.value if run.best else None),
    "best_round": Measure("in round", "number", lambda run: run.best.round if run.best else None),
}
COST: dict[str, Measure] = {
    "up_per_client": Measure("up per client", "bytes", lambda run: run.up_per_client),
    "up": Measure("bytes up", "bytes", lambda run: run.up),
    "down": Measure("bytes down", "bytes", lambda run: run.down),
    "bits_up": Measure("bits per parameter up", "number", bits_up),
    "seconds": Measure("time", "time", lambda run: run.seconds),
    "augment_seconds": Measure("augmenting, all clients", "time", lambda run: run.augment.seconds if run.augment else None),
    "epsilon": Measure("epsilon", "number", lambda run: run.epsilon),
    "failures": Measure("replies left out", "number", lambda run: len(run.failures)),
}


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation (None for a single value) of what is known."""

    mean: float | None
    deviation: float | None


def spread(values: Iterable[float | None]) -> Spread:
    """The spread of the known values."""
    known = [v for v in values if v is not None]
    return Spread(mean(known), statistics.stdev(known) if len(known) > 1 else None)


def compare(runs: Sequence[Run]) -> Json:
    """What the page shows of several runs together, ready for the template."""
    groups = grouped(runs)
    rows = [
        {
            "name": members[0].title,
            "details": label.removeprefix(members[0].title).lstrip(", "),
            "style": i,
            "runs": members,
        }
        for i, (label, members) in enumerate(groups.items())
    ]
    watched = sorted({run.best.text for run in runs if run.best})
    tables = [("What was reached", known(REACHED, runs)), ("What it cost", known(COST, runs))]
    shown = {"groups": rows, "tables": tables, "widths": by_widths(runs), "spread": spread, "watched": watched}
    return {**shown, "figures": figures(groups)}


def known(measures: dict[str, Measure], runs: Iterable[Run]) -> list[Measure]:
    """The measures that at least one of the runs has a value of."""
    return [measure for measure in measures.values() if any(measure.of(run) is not None for run in runs)]


def by_widths(runs: Sequence[Run]) -> list[tuple[str, list[Measure]]]:
    """Columns of the final models' accuracies, one for each width that a run measured, most bits first."""
    found = []
    for both, text in bits.KINDS.items():
        widths = sorted({width for run in runs for width in bits.at_bits(run, both)}, reverse=True)
        if widths:
            whole = Measure("float", "percent", lambda run: bits.of_float(run) if run.bit_widths else None)
            found.append((text[0].upper() + text[1:], [whole, *(_at_width(width, both) for width in widths)]))
    return found


def _at_width(width: int, activations: bool) -> Measure:
    return Measure(f"{width} bits", "percent", lambda run: bits.at_bits(run, activations).get(width))


def concerns(key: str, method: str, settings: Mapping[str, Any] | None = None) -> bool:
    """Whether a setting can change what a method does: it belongs to no other method, or to one whose settings all share.

    Args:
        settings: of the run, or lists of them by key: they may switch on a part that is a method of its own elsewhere.
    """
    group = next((group for known, group, _ in keys(all_groups()) if known == key), None)
    found = owners().get(group, []) if group is not None else []
    if not any(owner.kind is METHODS for owner in found):
        return True
    return any(owner.name == method if owner.kind is METHODS else _holds(settings, owner) for owner in found)


def _holds(settings: Mapping[str, Any] | None, owner: Owned) -> bool:
    given = (settings or {}).get(owner.kind.key)
    return owner.name in given if isinstance(given, (list, tuple)) else owner.name == given


def relevant(run: Run) -> Json:
    """The settings that can change a run's numbers: no places, no seed, and nothing of other methods or of what is not used."""
    return {key: value for key, value in run.settings.items() if key not in PLACES and matters(key, run.settings, run.method)}


def grouped(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Runs that differ in nothing but the seed, by a label; in the order given.

    The label names the method and of the settings that differ those that tell its runs apart or are not the default.
    """
    settings = [relevant(run) for run in runs]
    differing = _differing(settings)
    pairs = list(zip(runs, settings, strict=True))
    of_method = {run.method: _differing([found for other, found in pairs if other.method == run.method]) for run in runs}
    defaults = {key: f.default for key, _, f in keys(all_groups())}
    engines = len({run.engine for run in runs}) > 1
    groups: dict[str, list[Run]] = {}
    for run, found in pairs:
        named = [k for k in differing if k in found and (k in of_method[run.method] or found[k] != defaults.get(k))]
        parts = [run.title] + [f"{key}={_text(found[key])}" for key in named] + [run.engine] * engines
        groups.setdefault(", ".join(parts), []).append(run)
    return groups


def _differing(settings: Sequence[Json]) -> list[str]:
    known = dict.fromkeys(key for found in settings for key in found)
    return [key for key in known if len({repr(found[key]) for found in settings if key in found}) > 1]


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def figures(groups: dict[str, list[Run]]) -> list[tuple[str, str]]:
    """Overlaid curves of accuracies by round and by what was spent; groups without values are left out."""
    wanted: list[tuple[str, Callable[[Round], float | None], str]] = [
        ("Global accuracy by round", lambda r: r.accuracy, ""),
        ("Global accuracy by bytes up, all clients together", lambda r: r.accuracy, "bytes"),
        ("Global accuracy by time", lambda r: r.accuracy, "seconds"),
        ("Global accuracy on the worst tenth of the clients by round", lambda r: r.worst_tenth, ""),
        ("Personal accuracy (mean over clients) by round", lambda r: r.personal_mean, ""),
        ("Personal accuracy of the worst tenth of the clients by round", lambda r: r.personal_worst_tenth, ""),
    ]
    band = "; shaded: lowest to highest over seeds" if any(len(runs) > 1 for runs in groups.values()) else ""
    found = []
    for title, value, spent in wanted:
        lines = [_line(label, i, runs, value, spent) for i, (label, runs) in enumerate(groups.items())]
        if lines := [line for line in lines if line.x]:
            chart = plots.curves(lines, title, of_bytes=spent == "bytes", of_seconds=spent == "seconds")
            found.append((chart, f"{title}{band}."))
    return found + by_bits(groups) + bits.compared(groups)


def by_bits(groups: dict[str, list[Run]]) -> list[tuple[str, str]]:
    """Accuracy against bits per parameter up, one mark a group with its epsilon; nothing where all groups sent the same."""
    shown = []
    for style, (label, runs) in enumerate(groups.items()):
        paid, reached = mean(map(bits_up, runs)), spread(run.accuracy for run in runs)
        if paid is not None and reached.mean is not None:
            shown.append(Point(label + _privacy_text(runs), paid, reached.mean, reached.deviation, style))
    if not shown or max(p.x for p in shown) < 1.01 * min(p.x for p in shown):
        return []
    title = "Global accuracy by bits per parameter up, a client's reply"
    bars = "; bars: one standard deviation over seeds" if any(p.deviation is not None for p in shown) else ""
    return [(points(shown, title, "bits per parameter up"), f"{title}{bars}.")]


def _privacy_text(runs: Sequence[Run]) -> str:
    """The largest epsilon of the runs and whether it is only an estimate; empty where nothing was accounted for."""
    spent = [run.epsilon for run in runs if run.epsilon is not None]
    proven = all((run.privacy or {}).get("certified", True) for run in runs)
    return f", epsilon {max(spent):.3g}{'' if proven else ' (not certified)'}" if spent else ""


def _line(label: str, style: int, runs: Sequence[Run], value: Callable[[Round], float | None], spent: str) -> plots.Line:
    """The mean over the group's runs with its range, by round; flat where bytes are the axis and nothing was sent."""
    by_round: dict[int, list[tuple[float, float]]] = {}
    for run in runs:
        total = 0.0
        for r in run.rounds:
            total += sum(r.up) if spent == "bytes" else r.seconds
            if (reached := value(r)) is not None:
                by_round.setdefault(r.number, []).append((reached, total if spent else r.number))
    points = [by_round[number] for number in sorted(by_round)]
    values = [[v for v, _ in point] for point in points]
    x = [statistics.fmean(at for _, at in point) for point in points]
    low, high = ([min(v) for v in values], [max(v) for v in values]) if len(runs) > 1 else ([], [])
    text = f"{label} (mean of {len(runs)})" if len(runs) > 1 else label
    level = spent == "bytes" and not any(x)
    return plots.Line(text, x, [statistics.fmean(v) for v in values], style, low, high, level=level)
