"""The table that `data.name` names: a data set's own, what a function of somebody's gives, or one from a folder or the Hub."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from fedwarm.data.folders import TRAIN
from fedwarm.data.frames import filed, read_filed
from fedwarm.data.given import given, kind_of
from fedwarm.data.hub import hub_table, without_pictures
from fedwarm.data.pictures import Reading
from fedwarm.data.sets import data_set
from fedwarm.data.settings import CLASSES, LABELS, NUMBERS, TOKENS, Data
from fedwarm.data.tables import Table
from fedwarm.data.tabular import row_table
from fedwarm.data.texts import of_texts, read_texts
from fedwarm.settings.fields import SettingError
from fedwarm.settings.registry import is_reference

WORDS = {
    CLASSES: "classes (whole numbers or names)", LABELS: "labels of 0 and 1 (floats)", NUMBERS: "numbers (floats)",
    TOKENS: "the tokens that come next (whole numbers of shape (T,))",
}  # fmt: skip


def kept_table(data: Data) -> Table:
    """What clients train on; the last one is kept in the process.

    Raises:
        SettingError: it cannot be read.
    """
    if data_set(data.name) is not None:
        return made(data.reading)
    return fitting(stored(data.reading), data)


def read_table(data: Data, split: str = TRAIN) -> Table:
    """A split, read anew and not kept.

    Raises:
        SettingError: it cannot be read, or there is none (see `has_splits`).
    """
    found = data_set(data.name)
    if found is None:
        return fitting(stored_anew(data.reading, split), data)
    own = is_reference(data.name) and not hasattr(found, "split")  # a function of somebody's that says nothing of splits
    table: Table = given(found, data, split) if own else called(found, data.reading, split)
    return fitting(table, data)


def stored(data: Data) -> Table:
    """What clients train on of a file, a folder or a Hub data set; kept in the process."""
    if in_files(data.name):
        return stored_file(data)
    return hub_table(data.name, data.image_column, data.label_column, data.image_size, Reading.of(data), TRAIN, data)


def stored_anew(data: Data, split: str = TRAIN) -> Table:
    """A split of such a data set, read anew.

    Raises:
        SettingError: it cannot be read.
    """
    if of_texts(data.name):
        return read_texts(data.name, data, split)
    if filed(data.name):
        read, name = read_filed(data.name, split), data.name if split == TRAIN else f"split {split!r} of {data.name}"
        return without_pictures(read, name, data) or row_table(read, name, data)
    return hub_table.__wrapped__(data.name, data.image_column, data.label_column, data.image_size, Reading.of(data), split, data)


def in_files(name: str) -> bool:
    """Whether a data set is one of texts or of tables in files."""
    return of_texts(name) or filed(name)


def called(found: Any, data: Data, split: str) -> Table:
    """A split of a data set with a name."""
    table: Table = found(data) if split == TRAIN else found.split(data, split)
    return table


def fitting(table: Table, data: Data) -> Table:
    """A table whose targets are what the task wants.

    Raises:
        SettingError: they are of another kind.
    """
    found = kind_of(table)
    if found != data.targets and {found, data.targets} != {LABELS, NUMBERS}:
        raise SettingError(
            f"the task wants {WORDS[data.targets]}, and the targets of {table.name} are {WORDS[found]}; take another task, or "
            "another data set"
        )
    return table


def has_splits(name: str) -> bool:
    """Whether a data set can have other splits than the one that clients train on."""
    found = data_set(name)
    return found is None or hasattr(found, "split") or is_reference(name)


made = lru_cache(maxsize=1)(read_table)
stored_file = lru_cache(maxsize=1)(stored_anew)
