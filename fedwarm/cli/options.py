"""Options that several commands have."""

from __future__ import annotations

from typing import Annotated

import typer

Settings = Annotated[
    list[str] | None,
    typer.Option(
        "-c",
        "--run-config",
        help='settings: "key=value key=value", or a .toml file; those in FEDWARM_RUN_CONFIG come first and lose',
    ),
]
Named = Annotated[str, typer.Option("--federation", help="name of the federation, or path of its folder (with a slash in it)")]
