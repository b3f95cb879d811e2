"""Several runs side by side: grouped where they differ in the seed only, labelled by method and by the settings that differ."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from fedwarm.config import all_groups, keys
from fedwarm.methods import METHODS
from fedwarm.run import plots
from fedwarm.run.reading import Json, Round, Run, mean

PLACES = {"seed", "out", "client-folder", "method"}
MEASURES: dict[str, Callable[[Run], float | None]] = {
    "accuracy": lambda run: run.accuracy,
    "personal_mean": lambda run: run.personal_mean,
    "personal_worst": lambda run: run.personal_worst,
    "up_per_client": lambda run: run.up_per_client,
    "up": lambda run: run.up,
    "down": lambda run: run.down,
    "seconds": lambda run: run.seconds,
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
            "measures": {name: spread(measure(run) for run in members) for name, measure in MEASURES.items()},
        }
        for i, (label, members) in enumerate(groups.items())
    ]
    return {"groups": rows, "figures": figures(groups)}


def relevant(run: Run) -> Json:
    """The settings that can change a run's numbers: no places, no seed, and nothing that belongs to other methods."""
    found = {}
    for key, value in run.settings.items():
        owner = key.split(".")[0].replace("-", "_") if "." in key else ""
        if key not in PLACES and (owner not in METHODS or owner == run.method):
            found[key] = value
    return found


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
    """Overlaid curves: global accuracy by round and by bytes, personal accuracy by round; groups without values are left out."""
    wanted: list[tuple[str, Callable[[Round], float | None], bool]] = [
        ("Global accuracy by round", lambda r: r.accuracy, False),
        ("Global accuracy by bytes up, all clients together", lambda r: r.accuracy, True),
        ("Personal accuracy (mean over clients) by round", lambda r: r.personal_mean, False),
    ]
    band = "; shaded: lowest to highest over seeds" if any(len(runs) > 1 for runs in groups.values()) else ""
    found = []
    for title, value, of_bytes in wanted:
        lines = [_line(label, i, runs, value, of_bytes) for i, (label, runs) in enumerate(groups.items())]
        if lines := [line for line in lines if line.x]:
            found.append((plots.curves(lines, title, of_bytes=of_bytes), f"{title}{band}."))
    return found


def _line(label: str, style: int, runs: Sequence[Run], value: Callable[[Round], float | None], of_bytes: bool) -> plots.Line:
    """The mean over the group's runs with its range, by round; flat where nothing was sent and bytes are the axis."""
    by_round: dict[int, list[tuple[float, float]]] = {}
    for run in runs:
        sent = 0
        for r in run.rounds:
            sent += sum(r.up)
            if (reached := value(r)) is not None:
                by_round.setdefault(r.number, []).append((reached, sent))
    points = [by_round[number] for number in sorted(by_round)]
    values = [[v for v, _ in point] for point in points]
    x = [statistics.fmean(b for _, b in point) for point in points] if of_bytes else [float(n) for n in sorted(by_round)]
    low, high = ([min(v) for v in values], [max(v) for v in values]) if len(runs) > 1 else ([], [])
    text = f"{label} (mean of {len(runs)})" if len(runs) > 1 else label
    return plots.Line(text, x, [statistics.fmean(v) for v in values], style, low, high, level=of_bytes and not any(x))
