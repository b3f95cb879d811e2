"""What came of a study: a table, the same as CSV and JSON, two charts, and the page that shows them."""

from __future__ import annotations

import csv
import io
import json
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fedwarm.core.files import write_text
from fedwarm.core.forms import byte_text, second_text
from fedwarm.core.terminal import put, show
from fedwarm.launch.study_choice import LAST, Choice, Found
from fedwarm.launch.study_file import Arm, Study
from fedwarm.report import plots
from fedwarm.report.paired import Difference, difference, gap_text, spread_text
from fedwarm.report.render import filled, write_page
from fedwarm.report.studied import CLIENT, At, heading

PAGE, TABLE, DOCUMENT = "report.html", "study.csv", "study.json"
MIDDLE: dict[str, Callable[[Sequence[float]], float]] = {"up": statistics.fmean, "work": statistics.median}
"""What stands for all seeds of a cost."""


@dataclass(frozen=True)
class Row:
    """An arm at its last round (`LAST`) or at another one, over the seeds; seconds are medians, as machines are not quiet."""

    arm: str
    number: int
    seeds: list[int]
    found: dict[str, list[float | None]]
    gaps: dict[str, Difference]
    up: float
    work: float
    server: float

    @property
    def name(self) -> str:
        return self.arm if self.number == LAST else f"{self.arm}, round {self.number}"


def rows_of(study: Study, found: Mapping[str, Mapping[int, Found]]) -> list[Row]:
    """The table: each arm at its last round and at those asked for, with paired differences to the baseline's last."""
    base = {seed: run.last for seed, run in found[study.baseline].items()}
    rows = []
    for arm in study.arms:
        runs = found[arm.name]
        if not runs:
            continue
        ends = {run.last.number for run in runs.values()}
        for number in (*(n for n in study.rounds if ends != {n}), LAST):
            points = {s: at for s, run in runs.items() if (at := run.at(number))}
            if points:
                server = statistics.median(run.server for run in runs.values()) if number == LAST else math.nan
                rows.append(_row(study, arm, number, points, base, server))
    return rows


def _row(study: Study, arm: Arm, number: int, points: Mapping[int, At], base: Mapping[int, At], server: float) -> Row:
    both = [seed for seed in points if seed in base]
    values = {what: [at.found.get(what) for at in points.values()] for what in study.measures}
    gaps = {w: difference([points[s].found.get(w) for s in both], [base[s].found.get(w) for s in both]) for w in study.measures}
    up, work = (middle([getattr(at, cost) for at in points.values()]) for cost, middle in MIDDLE.items())
    return Row(arm.name, number, [*points], values, gaps, up, work, server)


def finish(
    study: Study, folder: Path, found: Mapping[str, Mapping[int, Found]], choices: Mapping[str, Choice],
    failures: Mapping[str, str],
) -> None:  # fmt: skip
    """Print the table; write it, all numbers behind it, and the page with its charts. Nothing where no run is there."""
    rows = rows_of(study, found)
    if not rows:
        put("no run of the study's table is complete")
        return
    gaps = ["difference", *(f"difference of {heading(what)}" for what in study.also)]
    heads = ["arm", "seeds", *map(heading, study.measures), *gaps, "up a client", "work a client", "server"]
    cells = [_cells(study, row) for row in rows]
    write_text(folder / TABLE, _csv(study, rows))
    write_text(folder / DOCUMENT, json.dumps(document(study, rows, found, choices, failures), indent=1) + "\n")
    shown = {name: choice.text() for name, choice in choices.items()}
    missing = [f"{arm.name}, seed {seed}" for arm in study.arms for seed in study.seeds if seed not in found[arm.name]]
    page = filled(
        "study.html.j2", study=study, heads=heads, rows=cells, figures=charts(study, found), choices=shown, failures=failures,
        missing=missing, runs=_links(folder, found), heading=heading(study.watch),
    )  # fmt: skip
    write_page(folder / PAGE, page)
    show(heads, cells)
    put(f"difference: {heading(study.watch)} to {study.baseline!r}, points, paired by seed [95 % interval], p of Student's t")
    if study.last > 1:
        put(f"the end of a run is the mean of its last {study.last} evaluations")
    if missing:
        put(f"not run: {len(missing)} of {len(study.arms) * len(study.seeds)} runs of the table")
    put(f"table   {folder / TABLE}\nreport  {folder / PAGE}")


def _cells(study: Study, row: Row) -> list[str]:
    """A row as text: accuracies in percent ± standard error, the watched one's difference to the baseline, and the costs."""
    values = [spread_text([100 * v for v in row.found[what] if v is not None] or [math.nan]) or "–" for what in study.measures]
    same = row.arm == study.baseline and row.number == LAST
    gaps = ["baseline" if same else _gap(row, what) for what in (study.watch, *study.also)]
    server = "–" if math.isnan(row.server) else second_text(row.server)
    return [row.name, str(len(row.seeds)), *values, *gaps, byte_text(row.up), second_text(row.work), server]


def _gap(row: Row, watch: str) -> str:
    """The watched difference; of an arm without a global model, that of the models which clients would use."""
    if row.gaps[watch].pairs or watch.startswith(CLIENT):
        return gap_text(row.gaps[watch])
    return gap_text(row.gaps["own"]) + " (own)"


def _csv(study: Study, rows: Sequence[Row]) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    gaps = [f"{what} {part}" for what in study.measures for part in ("difference", "low", "high", "p")]
    writer.writerow(["arm", "round", "seed", *study.measures, "bytes up a client", "seconds a client", *gaps])
    for row in rows:
        told = [n for w in study.measures for n in (row.gaps[w].mean, row.gaps[w].low, row.gaps[w].high, row.gaps[w].p)]
        for i, seed in enumerate(row.seeds):
            number = "last" if row.number == LAST else row.number
            values = ["" if row.found[w][i] is None else row.found[w][i] for w in study.measures]
            mean = ["" if math.isnan(value) else value for value in told]
            writer.writerow([row.arm, number, seed, *values, row.up, row.work, *mean])
    return stream.getvalue()


def document(
    study: Study, rows: Sequence[Row], found: Mapping[str, Mapping[int, Found]], choices: Mapping[str, Choice],
    failures: Mapping[str, str],
) -> dict[str, Any]:  # fmt: skip
    """All that the study says, as JSON; NaN is null."""
    told = {
        "title": study.title,
        "seeds": list(study.seeds),
        "tuning_seeds": list(study.tuning) if choices else [],
        "baseline": study.baseline,
        "watch": study.watch,
        "also": list(study.also),
        "last": study.last,
        "settings": dict(study.settings),
        "arms": [
            {"name": arm.name, "method": arm.method, "settings": dict(arm.settings), "start": arm.start, "chosen": arm.chosen}
            for arm in study.arms
        ],
        "rows": [{**asdict(row), "number": None if row.number == LAST else row.number} for row in rows],
        "runs": {name: {str(seed): _course(run) for seed, run in runs.items()} for name, runs in found.items()},
        "choices": {
            name: {
                "tried": [[dict(chosen), value] for chosen, value in choice.values],
                "taken": choice.taken,
                "each": {str(number): taken for number, taken in choice.each.items()},
            }
            for name, choice in choices.items()
        },
        "failures": dict(failures),
    }
    clean: dict[str, Any] = _without_nan(told)
    return clean


def _course(run: Found) -> dict[str, Any]:
    return {"folder": run.folder.name, "rounds": [asdict(at) for at in run.rounds], "server_seconds": run.server}


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(each) for each in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _links(folder: Path, found: Mapping[str, Mapping[int, Found]]) -> list[tuple[str, str]]:
    """Name and page of every run, relative to the folder."""
    return [
        (f"{name}, seed {seed}", f"{run.folder.relative_to(folder).as_posix()}/report.html")
        for name, runs in found.items()
        for seed, run in runs.items()
    ]


def charts(study: Study, found: Mapping[str, Mapping[int, Found]]) -> list[tuple[str, str]]:
    """Accuracy against bytes up and against client work, one line an arm: the mean over seeds (of work the median), shaded from
    lowest to highest."""
    made = []
    for cost, title in (("up", "bytes up of a client"), ("work", "client work")):
        lines = [
            line for i, arm in enumerate(study.arms)
            if (line := _line(arm.name, i, [*found[arm.name].values()], study.watch, cost)).x
        ]  # fmt: skip
        if lines:
            alt = f"{heading(study.watch).capitalize()} by {title}"
            chart = plots.curves(lines, alt, of_bytes=cost == "up", of_seconds=cost == "work", x_label=LABELS[cost])
            made.append((chart, f"{alt}; mean over seeds, shaded: lowest to highest."))
    return made


LABELS = {"up": "bytes up of a client so far", "work": "work of a client so far"}


def _line(label: str, style: int, runs: Sequence[Found], watch: str, cost: str) -> plots.Line:
    """Rounds that every run has measured; flat where nothing was paid."""
    of_run = [{at.number: at for at in (*run.rounds, run.last) if at.found.get(watch) is not None} for run in runs]
    numbers = sorted(set.intersection(*(set(found) for found in of_run))) if of_run else []
    values = [[found[n].found[watch] for found in of_run] for n in numbers]
    known = [[v for v in row if v is not None] for row in values]
    x = [MIDDLE[cost]([getattr(found[n], cost) for found in of_run]) for n in numbers]
    band = ([min(v) for v in known], [max(v) for v in known]) if len(runs) > 1 else ([], [])
    return plots.Line(label, x, [statistics.fmean(v) for v in known], style, *band, level=bool(x) and not any(x))
