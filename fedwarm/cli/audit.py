"""`fedwarm audit`: whether audit logs are as they were written."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedwarm.cli.help import App
from fedwarm.core.terminal import put

app = App("Audit logs of servers, nodes and runs: lines that are only added, each with the hash of the one before.")


@app.callback()
def _grouped() -> None:
    """Keeps `verify` a command of its own, though it is the only one."""


@app.command()
def verify(
    place: Annotated[Path, typer.Argument(help="an audit.jsonl, or the folder of a federation, a site or a run")],
    head: Annotated[str, typer.Option(help="hash of a line that must be there, as this command printed it before")] = "",
) -> None:
    """Check that no line was changed, taken out, put in or moved; exit code 1 and the line's number where one was."""
    from fedwarm.core.chain import FILE
    from fedwarm.core.chain import verify as look
    from fedwarm.core.failures import RunError

    path = next((each for each in (place / FILE, place / "state" / FILE, place) if each.is_file()), None)
    if path is None:
        raise RunError(f"{place} holds no {FILE}; name a log, or the folder of a federation, a site or a run")
    found = look(path, head)
    if found.problem:
        raise RunError(f"{path}: {found.problem}; {found.lines} lines before it hold together")
    put(f"{path}: {found.lines} lines hold together, head {found.head}")
