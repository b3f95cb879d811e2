"""Which classes a run has where every node brings its own data: agreed by name, in one order, whatever numbers a site gives them.

The order is that of the setting `data.classes`, else sorted: by number where all names are whole numbers, else by text. Names are
compared as people read them: the same letters in another Unicode form, or with blanks around them, are the same name.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence

from fedwarm.settings.fields import SettingError

FEWEST, SHOWN = 2, 10
WHOLE = re.compile(r"-?[0-9]{1,18}")


def plain(name: str) -> str:
    """A class's name as it is compared."""
    return unicodedata.normalize("NFC", name).strip()


def union(lists: Iterable[Iterable[str]]) -> tuple[str, ...]:
    """All names of several lists, each once, sorted."""
    names = {plain(name) for each in lists for name in each}
    if all(WHOLE.fullmatch(name) for name in names):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names))


def listed(text: str) -> tuple[str, ...]:
    """The names in the setting `data.classes`; none where it is empty.

    Raises:
        SettingError: one is empty or there twice, or there are too few.
    """
    if not text.strip():
        return ()
    names = [plain(name) for name in text.split(",")]
    if "" in names:
        raise SettingError(f"data.classes = {text!r} has an empty name; give the names with one comma between them")
    if twice := next((name for i, name in enumerate(names) if name in names[:i]), None):
        raise SettingError(f"data.classes = {text!r} has {twice!r} twice; name each class once")
    if len(names) < FEWEST:
        raise SettingError(f"data.classes = {text!r} is one class, so that every accuracy would be 100 %; name at least {FEWEST}")
    return tuple(names)


def places(own: Sequence[str], agreed: Sequence[str]) -> list[int]:
    """The place of each of one's own names among the agreed ones; -1 where those lack it."""
    known = {plain(name): place for place, name in enumerate(agreed)}
    return [known.get(plain(name), -1) for name in own]


def lookalikes(names: Sequence[str]) -> str:
    """What a reader should know of names that differ in case, blanks, hyphens or underscores alone; empty where none do."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(re.sub(r"[\s_-]+", "", name).casefold(), []).append(name)
    alike = [" and ".join(map(repr, group)) for group in groups.values() if len(group) > 1]
    if not alike:
        return ""
    return f"classes {'; '.join(alike[:SHOWN])} differ in spelling alone and count as different; if they are one, rename them"


def shown(names: Sequence[str]) -> str:
    """The first few names in one line."""
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def imbalance(counts: Sequence[int]) -> float:
    """Total-variation distance of a label law from the uniform one, 0 to 1 - 1/C: sum_c |n_c / n - 1 / C| / 2.

    Raises:
        ValueError: there are no examples.
    """
    total, classes = sum(counts), len(counts)
    if total < 1:
        raise ValueError("the distance of labels is undefined without examples")
    return sum(abs(n * classes - total) for n in counts) / (2 * total * classes)
