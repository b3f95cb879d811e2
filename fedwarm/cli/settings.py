"""Settings for people and for pyproject.toml, both out of the one place where they are defined."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from fedwarm.catalogue import ROOMS, all_groups
from fedwarm.core.terminal import columns, put
from fedwarm.core.text import INDENT, NARROW, NARROW_INDENT, cells, paragraph, table
from fedwarm.diffusion.presets import FULL
from fedwarm.relevance import Run
from fedwarm.settings.config import General
from fedwarm.settings.fields import Group, Row, SettingError, allowed, keys, near
from fedwarm.settings.kinds import KINDS, METHODS
from fedwarm.settings.registry import Kind, is_reference, referred, summary
from fedwarm.settings.text import literal

HEADS = ("setting", "default", "range", "meaning")
COMMON = "The settings of every run are listed by `fedwarm settings`."
NONE, SAME = "It has no settings.", "Its settings are those above."


@dataclass(frozen=True)
class Part:
    """Settings that are listed together: a heading (empty: none), the settings, and a line below them (empty: none)."""

    heading: str
    rows: list[Row]
    below: str = ""


def settings_table(name: str) -> None:
    """Print key, default, range and meaning of settings.

    Args:
        name: a component of any kind: what is its own; a part, such as `data`: its settings; one setting's key; empty: all.
    """
    width = columns()
    shown = []
    for part in chosen(name):
        below = part.below or ("" if part.rows else NONE)
        texts = (paragraph(part.heading, width), settings_text(part.rows, width) if part.rows else "", paragraph(below, width))
        shown.append("\n".join(text for text in texts if text))
    put("\n\n".join(shown))


def chosen(name: str) -> list[Part]:
    """The settings that a name stands for; one with a dot or a star behind it is a part of the settings, and no component.

    Raises:
        SettingError: it stands for none, or for a component that cannot be loaded.
    """
    if not name:
        return [Part(_about(group), list(keys((group,)))) for group in all_groups()]
    if is_reference(name):
        return [_component(f"{name}: ", referred(name, repr(name)), [])]
    every, part = list(keys(all_groups())), name.removesuffix("*").removesuffix(".").replace("_", "-")
    rows = [row for row in every if row[0] == part or row[0].startswith(f"{part}.")]
    if name.endswith((".", "*")) or any(row[0] == part for row in rows):
        parts = [Part("", rows)] if rows else []
    else:
        parts = _once([_of_kind(kind, kind.canonical(name)) for kind in KINDS.values() if name in kind])
        seen = {row[0] for found in parts for row in found.rows}
        rest = [row for row in rows if row[0] not in seen]
        parts += [Part(f"{part}.*: {_about(rest[0][1])}" if parts else "", rest)] if rest else []
    return parts or _refuse(name, every)


def _refuse(name: str, every: Iterable[Row]) -> list[Part]:
    parts = list(dict.fromkeys(group.prefix for _, group, _ in every if group.prefix))
    components = [each for kind in KINDS.values() for each in kind]
    known = [*components, *parts, *(key for key, _, _ in every)]
    raise SettingError(
        f"no component, part or key of the settings is called {name!r}{near(name, list(dict.fromkeys(known)))}; "
        f"`fedwarm components` lists the components, the parts are {', '.join(parts)}"
    )


def _once(parts: list[Part]) -> list[Part]:
    """Parts of which none repeats the settings of one before it."""
    return [
        replace(part, rows=[], below=SAME) if part.rows and part.rows in [other.rows for other in parts[:i]] else part
        for i, part in enumerate(parts)
    ]


def _of_kind(kind: Kind[Any], name: str) -> Part:
    """The settings of a component of a kind: its own groups', and those of others that it takes."""
    found = kind.load(name)
    run = Run({kind.key: name}, name if kind is METHODS else General.method) if kind.key else None
    uses = getattr(found, "uses", ())
    taken = uses(run) if callable(uses) and run is not None else () if callable(uses) else uses
    return _component(f"{kind.name} {name}: ", found, taken, _of_method(name) if kind is METHODS else _of_others(found))


def _of_others(found: Any) -> str:
    """What a component sets that nobody chooses by a setting: a family of foundations does so for its full-size ones."""
    own = ", ".join(f"{key} = {literal(value)}" for key, value in getattr(found, "usual", {}).items())
    return f"Where a foundation of {FULL} pixels and more is of it, and nobody says otherwise: {own}." if own else ""


def _of_method(name: str) -> str:
    """A method's own defaults of settings of any group, and where all others are listed."""
    found, usual = METHODS.load(name), {key: f.default for key, _, f in keys(all_groups())}
    always = found.presets(usual.__getitem__, filled=True)
    own = [f"{key} = {literal(value)}" for key, value in found.presets(usual.__getitem__).items() if key not in always]
    own += [f"--clients {found.clients}"] * bool(found.clients)
    return f"Where nobody says otherwise: {', '.join(own)}. {COMMON}" if own else COMMON


def _component(heading: str, found: Any, taken: Iterable[str], below: str = "") -> Part:
    settings = getattr(found, "settings", None)
    own = () if settings is None else tuple(settings) if isinstance(settings, tuple) else (settings,)
    wanted = set(taken)
    rows = [*keys(own), *(row for row in keys(all_groups()) if row[0] in wanted and row[1] not in own)]
    return Part(heading + summary(found), rows, below)


def _about(group: type[Group]) -> str:
    """What a group of settings is about: the first sentence of its docstring."""
    return " ".join((group.__doc__ or "").partition("\n\n")[0].split())


def settings_text(rows: list[Row], width: int | None) -> str:
    """A table where it is as narrow as `width`; else each setting in a line of its own with its meaning below."""
    shown = [(key, literal(f.default), allowed(f), str(f.metadata["text"])) for key, _, f in rows]  # type: ignore[arg-type]
    whole = table(HEADS, shown)
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
