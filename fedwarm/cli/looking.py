"""Commands that look at what lies on this machine: runs, pages about them, and what clients keep."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedwarm.core.terminal import put


def list_(
    folder: Annotated[Path, typer.Argument(help="folder; all runs below it are listed", envvar="FEDWARM_RUNS")] = Path("runs"),
) -> None:
    """List the runs below a folder with their progress, accuracy and cost."""
    from fedwarm.cli.runs import list_runs

    list_runs(folder)


def show(run: Annotated[Path, typer.Argument(help="run folder")]) -> None:
    """Summarise one run: changed settings, rounds, totals, failures, privacy."""
    from fedwarm.cli.runs import show_run

    show_run(run)


def state(
    folder: Annotated[Path | None, typer.Option(help="folder of client state; default: the user's cache folder")] = None,
    remove: Annotated[str, typer.Option(metavar="KEY", help="delete the client state of the run with this whole key")] = "",
) -> None:
    """List the state that clients keep on this machine between rounds, by run; or delete it."""
    from fedwarm.cli.states import list_states, remove_state
    from fedwarm.core.store import cache_home

    root = folder or cache_home()
    if remove:
        remove_state(root, remove)
    else:
        list_states(root)


def report(
    runs: Annotated[list[Path], typer.Argument(help="run folders")],
    out: Annotated[Path | None, typer.Option(help="the page; default report.html in the run's folder")] = None,
) -> None:
    """Write one HTML page about one run, or a comparison of several."""
    from fedwarm.report.page import make_report

    put(str(make_report(runs, out)))
