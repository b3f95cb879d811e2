"""The table of `gen-fedsd.file`: labelled real images, without those that a client holds."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np

from fedwarm.data.opening import read_table
from fedwarm.data.settings import Data
from fedwarm.data.shards import open_table
from fedwarm.data.tables import Rows, Table, public_of
from fedwarm.settings.fields import SettingError, near

PUBLIC = "public"


def unheld(name: str, data: Data) -> tuple[Table, Rows]:
    """A table and those of its rows that no client holds."""
    if name == PUBLIC:
        if not data.public:
            raise SettingError(
                "gen-fedsd.file = 'public' needs data.public-share or data.public-where, images that no client holds"
            )
        table = open_table(data)
        return table, public_of(table, data.public_share, data.public_where)
    if _place(name) == _place(data.name):
        raise SettingError(
            f"gen-fedsd.file = {name!r} is the clients' own data set, with each other's images and test images in it; give "
            "another, or 'public' with data.public-share"
        )
    table = _table(replace(data, name=name, own_settings=()).reading)
    return table, np.arange(len(table))


def _place(name: str) -> str:
    """A folder however it is spelled; any other name as it is."""
    path = os.path.expanduser(name)
    return os.path.realpath(path) if os.path.isdir(path) else name


@lru_cache(maxsize=1)
def _table(data: Data) -> Table:
    """The table of `gen-fedsd.file`, kept beside the clients' own."""
    try:
        return read_table(data)
    except SettingError as error:
        raise SettingError(str(error).replace("data.name", "gen-fedsd.file")) from error


def matched(classes: Sequence[str], names: Sequence[str], file: str) -> list[int]:
    """Each class's code in the table; letter case and underscores count only where they tell classes apart."""
    told = len({_loose(name) for name in classes}) < len(classes)
    codes = {name if told else _loose(name): code for code, name in enumerate(names)}
    for name in classes:
        if (name if told else _loose(name)) not in codes:
            raise SettingError(
                f"gen-fedsd.file = {file!r} has no class {name!r}{near(name, list(names))}; it has {', '.join(names)}"
            )
    return [codes[name if told else _loose(name)] for name in classes]


def _loose(name: str) -> str:
    return name.replace("_", " ").strip().lower()
