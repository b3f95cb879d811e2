"""Commands that list what a run can be made of: methods, components of every kind, settings."""

from __future__ import annotations

from typing import Annotated

import typer

from fedwarm.core.terminal import define, put
from fedwarm.settings.fields import SettingError


def methods() -> None:
    """List the methods."""
    from fedwarm.settings.kinds import METHODS
    from fedwarm.settings.registry import summary

    define([("method", "what it does"), *((name, summary(METHODS.load(name))) for name in METHODS)])


def components(
    kind: Annotated[str, typer.Argument(help="a kind, such as codec or models, or the setting that chooses; empty: all")] = "",
    coverage: Annotated[
        bool, typer.Option("--coverage", help="print which tasks, inputs and layers each covers, in Markdown")
    ] = False,
) -> None:
    """List the components of each kind: origin, required packages, settings."""
    from fedwarm.cli.components import components_table

    if coverage and kind:
        raise SettingError(f"--coverage prints all kinds; leave {kind!r} out")
    if coverage:
        from fedwarm.cli.coverage import coverage as table

        put(table().removesuffix("\n"))
    else:
        components_table(kind)


def settings(
    name: Annotated[str, typer.Argument(help="a component, a group such as data, or one setting; empty: all")] = "",
    toml: Annotated[bool, typer.Option("--toml", help="print the run config for a Flower app's pyproject.toml")] = False,
) -> None:
    """Print every setting with default, range and meaning."""
    from fedwarm.cli.settings import settings_table, settings_toml

    if toml and name:
        raise SettingError(f"--toml prints all settings; leave {name!r} out")
    if toml:
        put(settings_toml().removesuffix("\n"))
    else:
        settings_table(name)
