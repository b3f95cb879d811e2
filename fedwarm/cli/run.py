"""`fedwarm run`: a method, a sweep of runs, or any Flower app."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from fedwarm.cli.options import Settings
from fedwarm.settings.fields import SettingError
from fedwarm.settings.kinds import ENGINES


def run(
    method: Annotated[str, typer.Argument(help="a method, see `fedwarm methods`")] = "",
    engine: Annotated[
        str, typer.Option(help="local: this machine; ray: Flower's simulation; deployment: real nodes; or module:attribute")
    ] = ENGINES.first,
    out: Annotated[Path | None, typer.Option(help="run folder; default runs/METHOD-seed-N")] = None,
    seed: Annotated[int | None, typer.Option(help="seed of all random draws; default 0")] = None,
    rounds: Annotated[int | None, typer.Option(help="rounds of training (num-server-rounds)")] = None,
    clients: Annotated[int, typer.Option(help="number of clients; 0: what the data set suggests")] = 0,
    workers: Annotated[int, typer.Option(help="client processes; 0: what cores and memory allow; 1: none, in this process")] = 0,
    fresh: Annotated[bool, typer.Option("--fresh", help="replace the run that the folder holds")] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="continue the run in the folder with its own settings; with --rounds for more rounds")
    ] = False,
    sweep: Annotated[
        Path | None, typer.Option(help="run a sweep: all combinations in a .toml file that are not complete yet")
    ] = None,
    jobs: Annotated[
        int, typer.Option(min=1, help="with --sweep: runs at once, each with its share of the cores and a log of its own")
    ] = 1,
    app_folder: Annotated[Path | None, typer.Option("--app", help="run any Flower app's folder instead of a method")] = None,
    federation: Annotated[str, typer.Option(help="federation of --engine deployment, see `fedwarm federation`")] = "default",
    keep_going: Annotated[
        bool, typer.Option("--keep-going", help="with --engine deployment: restart a failed run from its checkpoint")
    ] = False,
    run_config: Settings = None,
) -> None:
    """Run a federation, e.g. `fedwarm run warmfed -c "data.partition='dirichlet' data.alpha=0.1"`.

    `fedwarm run --resume --out FOLDER` continues an interrupted run, to the same numbers; a sweep continues by the same command.
    """
    from fedwarm.engines import Asked
    from fedwarm.launch import run as launch
    from fedwarm.launch.request import engine_of

    options = Asked(clients, workers, federation, keep_going)
    engine_of(engine, options)
    if jobs > 1 and sweep is None:
        raise SettingError(f"--jobs {jobs} is for the runs of a sweep; use it with --sweep FILE, or leave it out")
    if app_folder is not None:
        given = {"--seed": seed, "--rounds": rounds, "--out": out, "--fresh": fresh or None, "--resume": resume or None}
        _refuse_with_app(method, {**given, "--sweep": sweep})
        launch.run_app(app_folder, run_config or [], engine, options)
    elif sweep is not None:
        from fedwarm.launch.sweep import run_sweep

        if seed is not None:
            raise SettingError("--seed cannot be used with --sweep; seeds stand in its file, e.g. seeds = [0, 1, 2]")
        pairs = [*(run_config or []), *([f"num-server-rounds={rounds}"] if rounds is not None else [])]
        run_sweep(
            sweep, out, method=method, engine=engine, federation=federation, keep_going=keep_going, clients=clients,
            workers=workers, jobs=jobs, fresh=fresh, overrides=pairs,
        )  # fmt: skip
    elif not (method := method or _method_in(run_config or [])) and not (resume and out is not None):
        raise SettingError("no method is given; name one (`fedwarm methods` lists them), or an app by --app FOLDER")
    else:
        words = tuple(run_config or ())
        asked = (method, engine, out, seed, rounds, clients, workers, fresh, resume, words, federation, keep_going)
        launch.run_method(launch.Request(*asked))


def _method_in(run_config: list[str]) -> str:
    """The method that settings name, as a file of a whole run does; empty where they name none."""
    from fedwarm.settings.text import parse_overrides

    return str(parse_overrides(run_config).get("method", ""))


def _refuse_with_app(method: str, given: Mapping[str, object]) -> None:
    if method:
        raise SettingError("give either a method or --app, not both")
    unused = [name for name, value in given.items() if value is not None]
    if unused:
        raise SettingError(f"{', '.join(unused)} cannot be used with --app; set the app's own keys by -c")
