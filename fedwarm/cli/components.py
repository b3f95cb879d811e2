"""`fedwarm components`: what a run can be made of, whence it comes, and what it needs."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import metadata, util
from typing import Any

from fedwarm.catalogue import groups_of
from fedwarm.core.terminal import columns, put
from fedwarm.core.text import definitions, paragraph
from fedwarm.settings.fields import SettingError, near
from fedwarm.settings.kinds import KINDS
from fedwarm.settings.registry import Kind, summary

OURS = "fedwarm"


def components_table(name: str, width: int | None = None) -> None:
    """Print the components of one kind, or of all.

    Args:
        name: a kind, by its name, its folder's, or the setting that chooses; empty: all.
        width: columns; None: those of standard output.
    """
    width = width or columns()
    put("\n\n".join(_text(kind, width) for kind in kinds(name)))


def kinds(name: str) -> list[Kind[Any]]:
    """The kinds that a name stands for.

    Raises:
        SettingError: it stands for none.
    """
    found = [kind for kind in KINDS.values() if not name or name.lower() in _called(kind)]
    if not found:
        known = [each for kind in KINDS.values() for each in _called(kind)]
        raise SettingError(f"{name!r} is not a kind of component{near(name, known)}; the kinds are {', '.join(KINDS)}")
    return found


def _called(kind: Kind[Any]) -> tuple[str, ...]:
    return tuple(dict.fromkeys((kind.name, kind.group.removeprefix("fedwarm."), *([kind.key] if kind.key else []))))


def _text(kind: Kind[Any], width: int | None) -> str:
    by = f"the setting {kind.key}" if kind.key else kind.option
    chosen = f"chosen by {by}" if by else "all that there are take part"
    head = paragraph(f"{kind.name}: {chosen}; entry points {kind.group}", width, hang=2)
    return head + "\n" + definitions([row for name in kind.names() for row in _rows(kind, name)], width, 2)


def _rows(kind: Kind[Any], name: str) -> Iterator[tuple[str, str]]:
    """A component's name with what it is, and a row with whence it comes, what it needs and its settings."""
    owners = kind.owners()[name]
    ours = owners[0].place == f"{kind.package}.{owners[0].module.rpartition('.')[2]}"
    whence = OURS if ours else " and ".join(owner.place for owner in owners)
    try:
        found = kind.load(name)
    except SettingError as error:
        yield name, str(error)
        yield "", whence
        return
    facts = [whence, *needs(found), *covered(found), *(f"settings {group.prefix}.*" for group in groups_of(kind, name))]
    yield name, summary(found)
    yield "", "; ".join(facts)


def covered(component: object) -> Iterator[str]:
    """What a component says of the tasks, inputs and layers that it works on, where these are not all."""
    yield from (
        f"{what} alone" for fact, what in (("classed", "tasks with classes"), ("pictures", "pictures")) if states(component, fact)
    )
    if layers := getattr(component, "layers", ""):
        yield f"layers: {layers}"


def states(component: object, fact: str) -> bool:
    """Whether a component states a fact, for some runs at least."""
    said = getattr(component, fact, False)
    return callable(said) or bool(said)


def needs(component: object) -> Iterator[str]:
    """What a component says of the packages that it needs, and which of them are missing."""
    wanted = tuple(getattr(component, "needs", ()))
    if wanted:
        yield f"needs {', '.join(name if _installed(name) else f'{name} (not installed)' for name in wanted)}"


def _installed(name: str) -> bool:
    """Whether there is a package of that name, as it is imported or as pip names it."""
    try:
        return util.find_spec(name.replace("-", "_")) is not None or bool(metadata.version(name))
    except (ImportError, ValueError):
        return False
