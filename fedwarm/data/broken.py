"""Pictures that cannot be read: told all at once, by row and file, wherever they are met."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

from fedwarm.settings.fields import SettingError

SHOWN = 5


class Broken(NamedTuple):
    """A picture that cannot be read: its row in the data set, its file where it has one, and why."""

    row: int
    file: str
    why: str

    def __str__(self) -> str:
        return f"row {self.row} ({f'{self.file}: ' if self.file and not _unnamed.get() else ''}{self.why})"


LOG = logging.getLogger("fedwarm")
_unnamed: ContextVar[bool] = ContextVar("unnamed", default=False)
_collected: ContextVar[dict[tuple[str, str], dict[int, Broken]] | None] = ContextVar("collected", default=None)


def refuse(broken: Sequence[Broken], name: str, column: str) -> None:
    """Refuse a data set for its broken pictures, now or, under `collecting`, when all of them are known.

    Raises:
        SettingError: names the first of them.
    """
    found = _collected.get()
    if found is None:
        if _unnamed.get():
            LOG.warning("fedwarm: %s", ", ".join(f"row {each.row}: {each.file or each.why}" for each in sorted(broken)[:SHOWN]))
        raise SettingError(refusal(broken, name, column))
    found.setdefault((name, column), {}).update((each.row, each) for each in broken)


def refusal(broken: Sequence[Broken], name: str, column: str) -> str:
    """One line that names the first few of them."""
    many = f"{len(broken)} pictures" if len(broken) > 1 else "a picture"
    return (
        f"{name}: {many} of column {column!r} cannot be read: {shown(broken)}; mend or remove them, or set "
        "data.skip-broken=true to leave them out"
    )


def shown(broken: Sequence[Broken]) -> str:
    """The first few, by row."""
    first = sorted(broken)[:SHOWN]
    rest = [f"and {len(broken) - len(first):,} more"] if len(broken) > len(first) else []
    return ", ".join([*map(str, first), *rest])


def nameless() -> bool:
    """Whether what is told travels: then no file is named, and no value of anybody's."""
    return _unnamed.get()


def local(detail: object, instead: str = "") -> str:
    """What names somebody's file or holds a value; where what is told travels, it is logged here and `instead` is told."""
    if not nameless():
        return str(detail)
    LOG.warning("fedwarm: %s", detail)
    return instead


@contextmanager
def unnamed() -> Iterator[None]:
    """Tell of broken pictures by their rows, and name their files in this machine's log alone: what is told travels."""
    token = _unnamed.set(True)
    try:
        yield
    finally:
        _unnamed.reset(token)


@contextmanager
def collecting() -> Iterator[None]:
    """Go on over broken pictures, which are black here, and refuse them all together at the end.

    Raises:
        SettingError: there were some.
    """
    token = _collected.set({})
    try:
        yield
        found = _collected.get()
    finally:
        _collected.reset(token)
    for (name, column), broken in (found or {}).items():
        raise SettingError(refusal(list(broken.values()), name, column))
