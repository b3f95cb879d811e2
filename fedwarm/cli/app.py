"""The command line: run a method or a sweep, look at runs and what they left, list methods and settings, write reports."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import click
import typer

from fedwarm import __version__
from fedwarm.cli.federation import app as federation_app
from fedwarm.cli.foundation import app as foundation_app
from fedwarm.cli.help import App
from fedwarm.cli.node import app as node_app
from fedwarm.cli.privacy import privacy
from fedwarm.core.failures import Interrupted, RunError
from fedwarm.core.files import DiskError
from fedwarm.core.terminal import CLOSED_PIPE, closed, define, flush, forget, prepare, put, say
from fedwarm.settings.fields import SettingError

app = App("Federated learning on top of Flower that starts warm, speaks little and fits small devices.")
app.add_typer(foundation_app, name="foundation")
app.add_typer(federation_app, name="federation")
app.add_typer(node_app, name="node")
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "-c",
        "--run-config",
        help='settings: "key=value key=value", or a .toml file; those in FEDWARM_RUN_CONFIG come first and lose',
    ),
]


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
        put(f"fedwarm {found.get('fedwarm', __version__)} ({others})")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print this and other versions, and exit.")
    ] = False,
) -> None:
    """What stands before a command."""


@app.command()
def run(
    method: Annotated[str, typer.Argument(help="a method, see `fedwarm methods`")] = "",
    engine: Annotated[str, typer.Option(help="local: here; ray: Flower's simulation; deployment: a federation")] = "local",
    out: Annotated[Path | None, typer.Option(help="run folder; default runs/METHOD-seed-N")] = None,
    seed: Annotated[int | None, typer.Option(help="every random draw derives from it")] = None,
    rounds: Annotated[int | None, typer.Option(help="rounds of training (num-server-rounds)")] = None,
    clients: Annotated[int, typer.Option(help="number of clients; 0: what the data set suggests")] = 0,
    workers: Annotated[int, typer.Option(help="processes for clients; 0: what cores and memory allow; 1: this one")] = 0,
    fresh: Annotated[bool, typer.Option("--fresh", help="replace the run that the folder holds")] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="go on with the run in the folder, by its own settings; with --rounds for longer")
    ] = False,
    sweep: Annotated[
        Path | None, typer.Option(help="run all that a .toml file combines of settings and seeds and that is missing")
    ] = None,
    app_folder: Annotated[Path | None, typer.Option("--app", help="run any Flower app's folder instead of a method")] = None,
    federation: Annotated[str, typer.Option(help="where --engine deployment runs, see `fedwarm federation`")] = "default",
    keep_going: Annotated[
        bool, typer.Option("--keep-going", help="on a federation: a run that fails starts again from its checkpoint")
    ] = False,
    run_config: Settings = None,
) -> None:
    """Run a federation, e.g. `fedwarm run warmfed -c "data.partition='dirichlet' data.alpha=0.1"`.

    A run that was stopped goes on by `fedwarm run --resume --out FOLDER`, to the same numbers; a sweep by the same command again.
    """
    from fedwarm.launch import run as launch

    if engine not in launch.ENGINES:
        raise SettingError(f"--engine {engine!r} is unknown; choose one of {', '.join(launch.ENGINES)}")
    if engine != "deployment" and (keep_going or federation != "default"):
        raise SettingError(f"{'--keep-going' if keep_going else '--federation'} goes with --engine deployment alone")
    if app_folder is not None:
        if method:
            raise SettingError("give either a method or --app, not both")
        given = {"--seed": seed, "--rounds": rounds, "--out": out, "--fresh": fresh or None, "--resume": resume or None}
        unused = [name for name, value in {**given, "--sweep": sweep}.items() if value is not None]
        if unused:
            raise SettingError(f"{', '.join(unused)} means nothing with --app; set the app's own keys by -c")
        launch.run_app(app_folder, run_config or [], engine, clients, workers, federation)
        return
    if sweep is not None:
        from fedwarm.launch.sweep import run_sweep

        if seed is not None:
            raise SettingError("--seed means nothing with --sweep; seeds stand in its file, e.g. seeds = [0, 1, 2]")
        pairs = [*(run_config or []), *([f"num-server-rounds={rounds}"] if rounds is not None else [])]
        run_sweep(
            sweep, out, method=method, engine=engine, federation=federation, keep_going=keep_going, clients=clients,
            workers=workers, fresh=fresh, overrides=pairs,
        )  # fmt: skip
        return
    if not method and not (resume and out is not None):
        raise SettingError("which method? `fedwarm methods` lists them; or give --app FOLDER")
    asked = (method, engine, out, seed, rounds, clients, workers, fresh, resume, tuple(run_config or ()), federation, keep_going)
    launch.run_method(launch.Request(*asked))


@app.command("list")
def list_(
    folder: Annotated[Path, typer.Argument(help="all runs below it are listed", envvar="FEDWARM_RUNS")] = Path("runs"),
) -> None:
    """List the runs below a folder: how far they came, what they reached and cost."""
    from fedwarm.cli.runs import list_runs

    list_runs(folder)


@app.command()
def show(run: Annotated[Path, typer.Argument(help="run folder")]) -> None:
    """Print one run in short: settings that were changed, rounds, totals, failures, privacy."""
    from fedwarm.cli.runs import show_run

    show_run(run)


@app.command()
def state(
    folder: Annotated[Path | None, typer.Option(help="where clients keep their state; default: the user's cache folder")] = None,
    remove: Annotated[str, typer.Option(metavar="KEY", help="remove what the clients of this run keep; the whole key")] = "",
) -> None:
    """List what clients keep on this machine between rounds, by run; or remove it."""
    from fedwarm.cli.runs import list_states, remove_state
    from fedwarm.core.store import cache_home

    root = folder or cache_home()
    if remove:
        remove_state(root, remove)
    else:
        list_states(root)


@app.command()
def methods() -> None:
    """List the methods."""
    from fedwarm.settings.kinds import METHODS
    from fedwarm.settings.registry import summary

    define([("method", "what it does"), *((name, summary(METHODS.load(name))) for name in METHODS)])


@app.command()
def settings(
    name: Annotated[str, typer.Argument(help="a method, a part such as data or dp-rec, or one setting; empty: all")] = "",
    toml: Annotated[bool, typer.Option("--toml", help="as the run config of a Flower app's pyproject.toml")] = False,
) -> None:
    """Print every setting with default, range and meaning."""
    from fedwarm.cli.settings import settings_table, settings_toml

    if toml:
        put(settings_toml().removesuffix("\n"))
    else:
        settings_table(name)


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="run folders")],
    out: Annotated[Path | None, typer.Option(help="the page; default report.html in the run's folder")] = None,
) -> None:
    """Write one HTML page about one run, or a comparison of several."""
    from fedwarm.report.page import make_report

    put(str(make_report(runs, out)))


app.command()(privacy)


@app.command()
def augment(
    seed: Annotated[int | None, typer.Option(help="of partition and images, as of the run that they are for")] = None,
    clients: Annotated[int, typer.Option(help="number of clients; 0: what the data set suggests")] = 0,
    client: Annotated[int, typer.Option(help="only this client, as on its own device; -1: all")] = -1,
    fill: Annotated[bool, typer.Option("--fill", help="draw what is missing; runs with the same settings find it")] = False,
    audit: Annotated[bool, typer.Option("--audit", help="train classifiers that say what the images show and teach")] = False,
    page: Annotated[Path | None, typer.Option(help="write a page of gaps before and after, with samples")] = None,
    run_config: Settings = None,
) -> None:
    """Show how many images each client's classes lack, and what drawing them will take (Gen-FedSD)."""
    from fedwarm.cli.augment import Work
    from fedwarm.cli.augment import augment as work

    put(work(Work(seed, clients, client, fill, audit, page, tuple(run_config or ()))))


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="run folder")],
    bits: Annotated[int, typer.Option(help="bits of a weight, 2 to 16; 32: float")] = 8,
    form: Annotated[str, typer.Option("--format", help="torch: packed safetensors; onnx: for onnxruntime")] = "torch",
    out: Annotated[Path | None, typer.Option(help="the file; default model-wBITS beside the run's model")] = None,
) -> None:
    """Write a run's global model with its weights quantized, as the file that a device would load."""
    from fedwarm.cli.export import export_run

    ending = {"torch": "safetensors", "onnx": "onnx"}.get(form, form)
    put(export_run(run, bits, form, out or run / f"model-w{bits}.{ending}").text)
