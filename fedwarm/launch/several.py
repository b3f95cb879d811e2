"""Several runs, each in a folder of its own: which are complete, which go on, and what those that fail ended with."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path

from fedwarm.catalogue import flagged, parse
from fedwarm.core.terminal import lively, say
from fedwarm.launch.request import Request
from fedwarm.launch.run import QUIET, run_method
from fedwarm.launch.sweep_file import Job
from fedwarm.record.checkpoint import exists, load
from fedwarm.record.reading import Run, read_run
from fedwarm.report.compare import concerns
from fedwarm.rounds.extend import CHANGEABLE, changed
from fedwarm.settings.fields import SettingError, Value

BAR = 20


def is_done(job: Job, folder: Path, clients: int, what: str = "sweep") -> bool:
    """Whether a run is complete; a SettingError where its folder holds one with other settings that it cannot go on with."""
    if not (folder / "results.json").is_file():
        return False
    run = read_run(folder, ledger=False)
    other: dict[str, Value] = {}
    free = flagged("free")
    for key, value in parse(job.flat).flat().items():
        if key not in free and concerns(key, job.method, job.flat) and run.settings.get(key, value) != value:
            if key not in CHANGEABLE or not exists(folder):
                raise SettingError(
                    f"{folder} holds a run with {key} = {run.settings[key]!r}, and the {what} wants {value!r}; "
                    "give another --out, or --fresh to start all its runs over"
                )
            other[key] = value
    if clients and run.clients not in (0, clients):
        raise SettingError(f"{folder} holds a run with {run.clients} clients, and the {what} wants {clients}; give another --out")
    if not run.complete or not exists(folder):
        return run.complete
    kept = load(folder)
    return kept.complete and not (other and changed(kept, other, folder))


def check_all(jobs: Iterable[Job], clients: int, real: bool = False) -> None:
    """Check settings, data and foundation of runs before the first begins; those that differ in the seed alone once."""
    from fedwarm.launch.preflight import check_run

    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    for job in {job.cell: job for job in reversed([*jobs])}.values():
        check_run(job.flat, clients, real)


def run_one(job: Job, folder: Path, common: Request, fresh: bool) -> str:
    """Run one, or go on with what its folder holds; what it failed with in one line, empty if it did not."""
    held = (folder / "results.json").is_file()
    resume = not fresh and exists(folder)
    request = replace(common, method=job.method, out=folder, seed=job.seed, run_config=job.pairs)
    request = replace(request, resume=resume, fresh=held and not resume)
    try:
        with redirect_stdout(sys.stderr):
            run_method(request)
    except Exception as error:
        if os.environ.get("FEDWARM_DEBUG"):
            raise
        line = line_of(error)
        say(f"failed: {job.name}: {line}")
        return line
    return ""


def line_of(error: Exception) -> str:
    """What an error says, in one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def announce(what: str, text: str, done: int, total: int) -> None:
    """Say which run begins, with a bar on a terminal."""
    if lively(sys.stderr, BAR + 2 * len(f"{what}: ")):
        text = f"{'━' * (BAR * done // total):·<{BAR}} {text}"
    say(f"{what}: {text}")


def completed_run(folder: Path, *, ledger: bool = False) -> Run | None:
    """The run of a folder; None where it is not there, or not complete."""
    run = read_run(folder, ledger=ledger) if (folder / "results.json").is_file() else None
    return run if run is not None and run.complete else None
