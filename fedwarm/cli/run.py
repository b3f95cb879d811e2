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
        str, typer.Option(help="local: here; ray: Flower's simulation; deployment: a federation; or module:attribute")
    ] = ENGINES.first,
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
    from fedwarm.engines import Asked
    from fedwarm.launch import run as launch
    from fedwarm.launch.request import engine_of

    options = Asked(clients, workers, federation, keep_going)
    engine_of(engine, options)
    if app_folder is not None:
        given = {"--seed": seed, "--rounds": rounds, "--out": out, "--fresh": fresh or None, "--resume": resume or None}
        _refuse_with_app(method, {**given, "--sweep": sweep})
        launch.run_app(app_folder, run_config or [], engine, options)
    elif sweep is not None:
        from fedwarm.launch.sweep import run_sweep

        if seed is not None:
            raise SettingError("--seed means nothing with --sweep; seeds stand in its file, e.g. seeds = [0, 1, 2]")
        pairs = [*(run_config or []), *([f"num-server-rounds={rounds}"] if rounds is not None else [])]
        run_sweep(
            sweep, out, method=method, engine=engine, federation=federation, keep_going=keep_going, clients=clients,
            workers=workers, fresh=fresh, overrides=pairs,
        )  # fmt: skip
    elif not method and not (resume and out is not None):
        raise SettingError("which method? `fedwarm methods` lists them; or give --app FOLDER")
    else:
        words = tuple(run_config or ())
        asked = (method, engine, out, seed, rounds, clients, workers, fresh, resume, words, federation, keep_going)
        launch.run_method(launch.Request(*asked))


def _refuse_with_app(method: str, given: Mapping[str, object]) -> None:
    if method:
        raise SettingError("give either a method or --app, not both")
    unused = [name for name, value in given.items() if value is not None]
    if unused:
        raise SettingError(f"{', '.join(unused)} means nothing with --app; set the app's own keys by -c")
