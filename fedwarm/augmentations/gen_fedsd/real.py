"""Synthetic images that are real ones: of a table that no client holds, or transforms of the client's own."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from fedwarm.augmentations.gen_fedsd.amounts import GenFedSD
from fedwarm.augmentations.gen_fedsd.shelf import Drawn
from fedwarm.augmentations.gen_fedsd.transforms import kinds, transformed
from fedwarm.core.seeds import numpy_generator
from fedwarm.data import Shard
from fedwarm.data.opening import read_table
from fedwarm.data.settings import Data
from fedwarm.data.shards import open_table
from fedwarm.data.tables import Rows, Table, public_rows
from fedwarm.settings.config import Config
from fedwarm.settings.fields import SettingError, near

DRAWS = "synthesis"
PUBLIC = "public"


class Chosen:
    """Labelled real images that no client holds: an oracle, or images from elsewhere.

    Args:
        config: the run's settings; `gen-fedsd.file` is a table, or `public`, the public part of the clients' own data set.
        classes: names of the classes; the table's own are matched by name.

    Raises:
        SettingError: the table cannot be read, is the clients' own, or lacks a class.
    """

    def __init__(self, config: Config, classes: Sequence[str]) -> None:
        self.size, name = config.of(Data).image_size, config.of(GenFedSD).file
        self.table, rows = unheld(name, config.of(Data))
        labels = self.table.label.codes[rows]
        self.rows = [rows[labels == code] for code in _matched(classes, self.table.label.names, name)]

    def stock(self, label: int) -> int | None:
        return len(self.rows[label])

    def take(self, client: int, label: int, indices: Sequence[int]) -> tuple[Drawn, int]:
        rows = self.rows[label][np.asarray(indices, dtype=np.int64)]
        return plain(self.table.images(rows) if len(rows) else Drawn.none(self.size).images, indices), 0


class Transformed:
    """Random crops, flips and colours of the client's own images of a class; a class that it lacks stays empty."""

    def __init__(self, config: Config, shard: Shard) -> None:
        self.seed, self.shard, self.kinds = config.run.seed, shard, kinds(config.of(GenFedSD).transforms)

    def stock(self, label: int) -> int | None:
        return None

    def take(self, client: int, label: int, indices: Sequence[int]) -> tuple[Drawn, int]:
        own = self.shard.train_images[self.shard.train_labels == label]
        draws = numpy_generator(self.seed, DRAWS, "transforms", client, label)
        return plain(transformed(own, indices, self.kinds, draws), indices), 0


def plain(images: Tensor, indices: Sequence[int]) -> Drawn:
    """Images that no noise made, as drawn once and not judged."""
    n = len(indices)
    zeros, ones = torch.zeros(n, dtype=torch.int64), torch.ones(n, dtype=torch.int64)
    return Drawn(images, torch.tensor(indices, dtype=torch.int64), zeros, zeros, ones, torch.ones(n), torch.zeros(n))


def unheld(name: str, data: Data) -> tuple[Table, Rows]:
    """A table and those of its rows that no client holds."""
    if name == PUBLIC:
        if not data.public_share:
            raise SettingError("gen-fedsd.file = 'public' needs data.public-share, images that no client holds; it is 0")
        table = open_table(data)
        return table, public_rows(table, data.public_share)
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


def _matched(classes: Sequence[str], names: Sequence[str], file: str) -> list[int]:
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
