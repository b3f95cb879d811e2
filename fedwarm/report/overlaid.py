"""Charts that lay several runs over each other: accuracies by round and by what was spent."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

from fedwarm.record.reading import Round, Run, mean
from fedwarm.report import plots
from fedwarm.report.measured import bits_up, spread
from fedwarm.report.scatter import Point, points
from fedwarm.report.sections import Figures


def figures(groups: dict[str, list[Run]]) -> Figures:
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
    return found + by_bits(groups)


def by_bits(groups: dict[str, list[Run]]) -> Figures:
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
    """The mean over the group's runs with its range, by round, as far as all of them came; flat where nothing was sent."""
    by_round: dict[int, list[tuple[float, float]]] = {}
    for run in runs:
        total = 0.0
        for r in run.rounds:
            total += sum(r.up) if spent == "bytes" else r.seconds
            if (reached := value(r)) is not None:
                by_round.setdefault(r.number, []).append((reached, total if spent else r.number))
    points = [by_round[number] for number in sorted(by_round) if len(by_round[number]) == len(runs)]
    values = [[v for v, _ in point] for point in points]
    x = [statistics.fmean(at for _, at in point) for point in points]
    low, high = ([min(v) for v in values], [max(v) for v in values]) if len(runs) > 1 else ([], [])
    text = f"{label} (mean of {len(runs)})" if len(runs) > 1 else label
    level = spent == "bytes" and not any(x)
    return plots.Line(text, x, [statistics.fmean(v) for v in values], style, low, high, level=level)
