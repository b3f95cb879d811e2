"""Settings for people and for pyproject.toml, both out of the one place where they are defined."""

from __future__ import annotations

import json
from itertools import groupby

from fedwarm.config import Value, all_groups, allowed, common_groups, keys


def settings_table(method: str) -> None:
    """Print key, default, range and meaning of a method's settings (of all methods where the name is empty)."""
    from rich.console import Console
    from rich.table import Column, Table

    from fedwarm.methods import method_group

    own = method_group(method) if method else None
    groups = (common_groups() + ((own,) if own else ())) if method else all_groups()
    widest = max(len(key) for key, _, _ in keys(groups))
    table = Table(Column("setting", no_wrap=True, min_width=widest), "default", "range", "meaning", box=None)
    for key, _, f in keys(groups):
        table.add_row(key, literal(f.default), allowed(f), str(f.metadata["text"]))  # type: ignore[arg-type]
    Console().print(table)


def settings_toml() -> str:
    """The run config of the project's own pyproject.toml, one table per group."""
    lines: list[str] = []
    for prefix, entries in groupby(keys(all_groups()), key=lambda entry: entry[1].prefix):
        if prefix:
            lines.append(f"\n[tool.flwr.app.config.{prefix}]")
        for key, _, f in entries:
            lines.append(f"{key.removeprefix(prefix + '.')} = {literal(f.default)}")  # type: ignore[arg-type]
    return "\n".join(lines) + "\n"


def literal(value: Value) -> str:
    """A value as TOML writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return json.dumps(value) if isinstance(value, str) else repr(value)
