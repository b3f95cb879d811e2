"""The table that `data.name` names: a data set's own, or one read from a folder or the Hub."""

from __future__ import annotations

from functools import lru_cache

from fedwarm.data.folders import TRAIN
from fedwarm.data.hub import hub_table
from fedwarm.data.pictures import Reading
from fedwarm.data.sets import data_set
from fedwarm.data.settings import Data
from fedwarm.data.tables import Table


def kept_table(data: Data) -> Table:
    """What clients train on; the last one is kept in the process.

    Raises:
        SettingError: it cannot be read.
    """
    if data_set(data.name) is not None:
        return made(data.reading)
    return hub_table(data.name, data.image_column, data.label_column, data.image_size, Reading.of(data))


def read_table(data: Data, split: str = TRAIN) -> Table:
    """A split, read anew and not kept.

    Raises:
        SettingError: it cannot be read, or there is none (see `has_splits`).
    """
    found = data_set(data.name)
    if found is None:
        columns = (data.image_column, data.label_column)
        return hub_table.__wrapped__(data.name, *columns, data.image_size, Reading.of(data), split)
    table: Table = found(data.reading) if split == TRAIN else found.split(data.reading, split)
    return table


def has_splits(name: str) -> bool:
    """Whether a data set can have other splits than the one that clients train on."""
    found = data_set(name)
    return found is None or hasattr(found, "split")


made = lru_cache(maxsize=1)(read_table)
