"""The command line: its commands put together, and how each of them ends."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import click
import typer

from fedwarm.cli.audit import app as audit_app
from fedwarm.cli.federation import app as federation_app
from fedwarm.cli.foundation import app as foundation_app
from fedwarm.cli.help import App
from fedwarm.cli.listing import components, methods, settings
from fedwarm.cli.looking import list_, report, show, state
from fedwarm.cli.making import augment, export
from fedwarm.cli.node import app as node_app
from fedwarm.cli.privacy import privacy
from fedwarm.cli.run import run
from fedwarm.cli.study import study
from fedwarm.core.failures import Interrupted, RunError
from fedwarm.core.files import DiskError
from fedwarm.core.terminal import CLOSED_PIPE, closed, flush, forget, prepare, put, say
from fedwarm.core.version import VERSION
from fedwarm.settings.fields import SettingError

app = App("Federated learning on top of Flower: methods, privacy, compression and records.")
app.add_typer(foundation_app, name="foundation")
app.add_typer(federation_app, name="federation")
app.add_typer(node_app, name="node")
app.add_typer(audit_app, name="audit")


def main() -> None:
    """Entry point; an input that cannot be used is one line and exit code 2, a run that failed one line and exit code 1."""
    prepare()
    try:
        code = _served()
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(2)
    except click.ClickException as error:
        _stop(error.format_message(), 2)
    except SettingError as error:
        _stop(str(error), 2)
    except RunError as error:
        _stop(str(error), 1)
    except BrokenPipeError:
        raise
    except OSError as error:
        if os.environ.get("FEDWARM_DEBUG"):
            raise
        told = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
        _stop(str(error) if isinstance(error, DiskError) else told or str(error), 2 if isinstance(error, DiskError) else 1)
    except Interrupted as error:
        _stop(str(error), error.code)
    except (KeyboardInterrupt, click.Abort):
        _stop("stopped by the keyboard", 130)
    else:
        if code == 130:
            _stop("stopped by the keyboard", 130)
        sys.exit(code or 0)


def _served() -> int:
    """Do what was asked; the exit code, `CLOSED_PIPE` where nobody reads the output to its end."""
    try:
        code = app(standalone_mode=False)
        flush()
    except (SystemExit, OSError) as end:
        if not closed(end) and not closed(end.__context__):
            raise
        forget()
        code = CLOSED_PIPE
    return int(code or 0)


def _stop(message: str, code: int) -> None:
    say(f"fedwarm: {message}")
    sys.exit(code)


def _version(wanted: bool) -> None:
    """Print the version, and those of what decides the numbers, by their packages' metadata alone."""
    if wanted:
        from fedwarm.record.versions import versions

        found = versions()
        others = ", ".join(f"{name} {found[name]}" for name in ("flwr", "torch", "python") if name in found)
        put(f"fedwarm {found.get('fedwarm', VERSION)} ({others})")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print this and other versions, and exit.")
    ] = False,
) -> None:
    """What stands before a command."""


COMMANDS = {
    "run": run, "study": study, "list": list_, "show": show, "state": state, "methods": methods, "components": components,
    "settings": settings, "report": report, "privacy": privacy, "augment": augment, "export": export,
}  # fmt: skip
for name, command in COMMANDS.items():
    app.command(name)(command)
