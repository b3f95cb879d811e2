"""`fedwarm study`: arms compared over seeds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedwarm.cli.options import Settings
from fedwarm.settings.kinds import ENGINES


def study(
    file: Annotated[Path, typer.Argument(help="a study's .toml file; `benchmarks/studies` of the project has some")],
    out: Annotated[Path | None, typer.Option(help="folder of its runs; default runs/study-FILE")] = None,
    seeds: Annotated[int, typer.Option(min=0, help="only the first so many seeds of the file; 0: all")] = 0,
    engine: Annotated[str, typer.Option(help="engine of its runs: local, ray, or module:attribute")] = ENGINES.first,
    workers: Annotated[int, typer.Option(help="client processes; 0: what cores and memory allow; 1: none")] = 0,
    jobs: Annotated[int, typer.Option(min=1, help="runs at once, each with its share of the cores and a log of its own")] = 1,
    fresh: Annotated[bool, typer.Option("--fresh", help="run everything anew")] = False,
    table: Annotated[bool, typer.Option("--table", help="run nothing; print and write what the finished runs say")] = False,
    run_config: Settings = None,
) -> None:
    """Compare arms at the same seeds: equal splits, settings chosen on validation, paired differences, and both costs.

    The same command goes on with a study that was stopped. The folder gets report.html, study.csv and study.json.
    """
    from fedwarm.launch.study import run_study

    run_study(
        file, out, seeds=seeds, engine=engine, workers=workers, jobs=jobs, fresh=fresh, table=table, overrides=run_config or []
    )
