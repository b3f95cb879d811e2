"""A sweep: every run of a grid in its own folder, those that are missing run, one table at the end.

A run that is complete is left as it is, one that was broken off is resumed, one that fails is noted and the sweep goes on; so the
same command finishes a sweep that was stopped.
"""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from fedwarm.core.failures import RunError
from fedwarm.core.files import write_text
from fedwarm.core.forms import second_text
from fedwarm.core.terminal import put, say, show
from fedwarm.engines import FEDERATION
from fedwarm.launch.crew import Crew, refuse_jobs
from fedwarm.launch.interrupt import interruptible
from fedwarm.launch.request import Request, engine_of
from fedwarm.launch.several import announce, check_all, completed_run, is_done, run_one
from fedwarm.launch.sweep_file import Job, Sweep, read_sweep
from fedwarm.launch.sweep_file import jobs as all_jobs
from fedwarm.record.folder import runs_root
from fedwarm.record.lock import Lock, refuse_busy
from fedwarm.record.reading import Run
from fedwarm.report.measured import COST, REACHED, known, spread
from fedwarm.report.render import FORMS
from fedwarm.report.sections import Measure
from fedwarm.settings.fields import SettingError, Value
from fedwarm.settings.kinds import ENGINES, METHODS
from fedwarm.settings.text import parse_overrides

COLUMNS = (
    "accuracy",
    "worst_tenth",
    "personal_mean",
    "personal_worst_tenth",
    "personal_worst",
    "up",
    "seconds",
    "epsilon",
    "failures",
)


def run_sweep(
    path: Path,
    out: Path | None = None,
    *,
    method: str = "",
    engine: str = ENGINES.first,
    federation: str = FEDERATION,
    keep_going: bool = False,
    clients: int = 0,
    workers: int = 0,
    jobs: int = 1,
    fresh: bool = False,
    overrides: Sequence[str] = (),
) -> Path:
    """Run what is missing of a sweep, then print and write its table; the folder that holds all its runs.

    Args:
        path: the sweep file.
        out: the folder; None: `runs/sweep-<name of the file>`.
        method: only this one of the file's methods, or the one where the file names none.
        engine: as of one run, and so `federation`, `keep_going`, `clients` (0: the file's) and `workers`.
        jobs: runs at once, each with its share of the cores.
        fresh: begin every run anew.
        overrides: settings of every run, as `-c` takes them; they win over the file's.

    Raises:
        SettingError: the file or a run of it cannot be, or the folder holds runs with other settings; nothing was run.
        RunError: some runs failed; all others are done, and the table is written.
    """
    sweep = _asked(read_sweep(path), path, method, clients, parse_overrides(list(overrides)))
    folder = out or runs_root() / f"sweep-{path.stem}"
    listed = all_jobs(sweep, str(path))
    done = {job.name for job in listed if not fresh and is_done(job, folder / job.name, sweep.clients)}
    missing = [job for job in listed if job.name not in done]
    common = Request("", engine, clients=sweep.clients, workers=workers, federation=federation, keep_going=keep_going)
    chosen = engine_of(engine, common.asked)
    refuse_jobs(jobs, engine, chosen.real, missing)
    check_all(missing, chosen.clients(common.asked) if missing else sweep.clients, chosen.real)
    for place in (folder, *(folder / job.name for job in missing)):
        refuse_busy(place)
    with Lock(folder.absolute()).held(), interruptible(lambda: "interrupted; the same command goes on with the sweep"):
        failures = _run_all(missing, folder, common, fresh, len(listed), jobs)
        finish(listed, folder)
    for name, line in failures.items():
        say(f"failed: {name}: {line}")
    if failures:
        raise RunError(f"{len(failures)} of {len(listed)} runs failed; the same command tries them again")
    return folder


def _asked(sweep: Sweep, path: Path, method: str, clients: int, overrides: Mapping[str, Value]) -> Sweep:
    """The file's sweep with what the command line says."""
    named = (METHODS.canonical(method),) if method else sweep.methods
    if not named:
        raise SettingError(f"{path} names no methods; add methods = [...], or name one on the command line")
    if sweep.methods and not set(named) <= set(sweep.methods):
        raise SettingError(f"{path} has no runs of {named[0]}; its methods are {', '.join(sweep.methods)}")
    settings = {**sweep.settings, **overrides}
    return replace(sweep, methods=named, clients=clients or sweep.clients, settings=settings)


def _run_all(missing: Sequence[Job], folder: Path, common: Request, fresh: bool, total: int, at_once: int) -> dict[str, str]:
    """Run one after the other, or several at once; what the failed ones ended with, by name."""
    begun, before = time.monotonic(), total - len(missing)
    ended: dict[str, str] = {}
    if before:
        say(f"sweep: {before} of {total} runs are complete already")

    def begins(job: Job, others: int = 0) -> None:
        _announce(job, before + len(ended), others, total, time.monotonic() - begun, len(ended))

    if at_once == 1 or len(missing) < 2:
        for job in missing:
            begins(job)
            ended[job.name] = run_one(job, folder / job.name, common, fresh)
    else:
        with closing(Crew(min(at_once, len(missing)), folder.absolute(), common, fresh)) as crew:
            for each in crew.work(
                lambda: [job for job in missing if job.name not in ended], lambda job: begins(job, len(crew.at))
            ):
                ended[each.job.name] = each.line
                say(f"sweep: {each.job.cell}, seed {each.job.seed}: {each.told}")
    return {name: line for name, line in ended.items() if line}


def _announce(job: Job, done: int, others: int, total: int, gone_seconds: float, finished: int) -> None:
    """Which run begins, of how many, how long the sweep took so far and will take; with a bar on a terminal."""
    text = f"run {done + others + 1} of {total}: {job.cell}, seed {job.seed}"
    if finished:
        left = gone_seconds / finished * (total - done)
        text += f" ({second_text(gone_seconds)} gone, about {second_text(left)} left)"
    announce("sweep", text, done, total)


def finish(listed: Sequence[Job], folder: Path) -> None:
    """Print the table of the complete runs; write it as `sweep.csv`, and `report.html` that compares the runs."""
    from fedwarm.report.page import make_report

    cells: dict[str, list[Job]] = {}
    for job in listed:
        cells.setdefault(job.cell, []).append(job)
    runs = {cell: [run for job in members if (run := completed_run(folder / job.name))] for cell, members in cells.items()}
    every = [run for found in runs.values() for run in found]
    if not every:
        return
    measures = known({name: measure for name, measure in (REACHED | COST).items() if name in COLUMNS}, every)
    rows = []
    for cell, found in runs.items():
        asked = len(cells[cell])
        count = str(asked) if len(found) == asked else f"{len(found)} of {asked}"
        rows.append([cell, count, *(_spread_text(found, measure) for measure in measures)])
    write_text(folder / "sweep.csv", _csv({cell: members[0] for cell, members in cells.items()}, runs, measures))
    page = make_report([run.folder for run in every], folder / "report.html")
    show(["run", "seeds", *(measure.heading for measure in measures)], rows)
    put(f"table   {folder / 'sweep.csv'}\nreport  {page}")


def _spread_text(runs: Sequence[Run], measure: Measure) -> str:
    found = spread(measure.of(run) for run in runs)
    text = FORMS[measure.form](found.mean)
    return (text + (f" ± {FORMS[measure.form](found.deviation)}" if found.deviation else "")).replace("\u00a0", " ")


def _csv(cells: Mapping[str, Job], runs: Mapping[str, Sequence[Run]], measures: Sequence[Measure]) -> str:
    """One row a cell: method, values of the grid, runs, and of each measure its mean and sample standard deviation."""
    varied = list(dict.fromkeys(key for job in cells.values() for key in job.varied))
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    columns = [part for m in measures for part in (m.heading, f"{m.heading}, deviation")]
    writer.writerow(["method", *varied, "runs", *columns])
    for cell, job in cells.items():
        found = [spread(measure.of(run) for run in runs[cell]) for measure in measures]
        numbers = ["" if v is None else v for s in found for v in (s.mean, s.deviation)]
        writer.writerow([job.method, *(job.varied.get(key, "") for key in varied), len(runs[cell]), *numbers])
    return stream.getvalue()
