"""Settings for people and for pyproject.toml, both out of the one place where they are defined."""

from __future__ import annotations

import dataclasses
import json
from itertools import groupby

from fedwarm.catalogue import ROOMS, all_groups, common_groups, groups_of
from fedwarm.core.terminal import columns, put
from fedwarm.core.text import INDENT, NARROW, NARROW_INDENT, cells, paragraph, table
from fedwarm.settings.fields import Group, SettingError, Value, allowed, keys, near
from fedwarm.settings.kinds import METHODS

Row = tuple[str, type[Group], dataclasses.Field[Value]]


def settings_table(name: str, width: int | None = None) -> None:
    """Print key, default, range and meaning of settings.

    Args:
        name: a method: what it takes; a part, such as `data`: its settings; one setting's key; empty: all there are.
        width: columns; None: those of standard output.
    """
    put(settings_text(chosen(name), width or columns()))


def chosen(name: str) -> list[Row]:
    """The settings that a name stands for; `dp_rec` is the method, `dp-rec` the part, and so is any name with a dot behind it.

    Raises:
        SettingError: it stands for none.
    """
    part, every = name.removesuffix("*").removesuffix("."), list(keys(all_groups()))
    if not name:
        return every
    found = [row for row in every if row[0] == part or row[0].startswith(f"{part}.")]
    if found and (name != part or part not in METHODS.names()):
        return found
    if name in METHODS:
        return list(keys(common_groups() + groups_of(METHODS, name)))
    parts = list(dict.fromkeys(group.prefix for _, group, _ in every if group.prefix))
    known = [*METHODS, *parts, *(key for key, _, _ in every)]
    raise SettingError(
        f"unknown method {name!r}{near(name, known)}, and no part or key of the settings either; "
        f"the methods are {', '.join(METHODS)}, the parts {', '.join(parts)}"
    )


def settings_text(rows: list[Row], width: int | None) -> str:
    """A table where it is as narrow as `width`; else each setting in a line of its own with its meaning below."""
    heads = ("setting", "default", "range", "meaning")
    shown = [(key, literal(f.default), allowed(f), str(f.metadata["text"])) for key, _, f in rows]  # type: ignore[arg-type]
    whole = table(heads, shown)
    if width is None or max(map(cells, whole.split("\n"))) <= width:
        return whole
    step = NARROW_INDENT if width < NARROW else INDENT
    return "\n".join(
        f"{paragraph(f'{key} = {default}  ({span})', width, hang=2 * step)}\n{paragraph(text, width, step)}"
        for key, default, span, text in shown
    )


def settings_toml() -> str:
    """The run config of the project's own pyproject.toml, one table per group; settings of components go into `set`."""
    lines: list[str] = []
    for prefix, entries in groupby(keys(ROOMS), key=lambda entry: entry[1].prefix):
        if prefix:
            lines.append(f"\n[tool.flwr.app.config.{prefix}]")
        for key, _, f in entries:
            lines.append(f"{key.removeprefix(prefix + '.')} = {literal(f.default)}")  # type: ignore[arg-type]
    return "\n".join(lines) + "\n"


def literal(value: Value) -> str:
    """A value as TOML writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f") if isinstance(value, str) else repr(value)
