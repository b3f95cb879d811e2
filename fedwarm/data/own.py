"""What one client holds: its part of a data set that is dealt, or, with `data.name = own`, all of a folder of its own.

A real site has its data in a folder that its node's configuration names (`data-folder`), and holds nothing of the others'. Such a
folder is read like any data set and nothing of it is dealt. Its classes are known by their names: labels become their places in
the list that all nodes agreed on (`fedwarm.data.classes`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from fedwarm.data.broken import unnamed
from fedwarm.data.classes import listed, places, plain, shown, union
from fedwarm.data.originals import Originals
from fedwarm.data.rows import FEWEST
from fedwarm.data.settings import DATA_FOLDER as FOLDER
from fedwarm.data.settings import Data
from fedwarm.data.shards import Shard, held_counts, load_shard, open_table, originals_of, table_tested
from fedwarm.settings.fields import SettingError, near

GIVE = f"give its absolute path in --node-config, e.g. \"{FOLDER}='/data/site'\""


@dataclass(frozen=True)
class Holding:
    """A client's images.

    Attributes:
        data: the settings; those of a node's own data name its folder (see `at_home`).
        seed: the run's.
        partition, partitions: who the client is, and of how many.
        own: whether the data set is all its own.
        classes: those that the run's nodes agreed on; empty where it is not told, or not needed.
    """

    data: Data
    seed: int
    partition: int
    partitions: int
    own: bool = False
    classes: tuple[str, ...] = ()

    def shard(self) -> Shard:
        """The images, labelled by the run's classes; of its own alone where those are not told yet.

        Raises:
            SettingError: the data cannot be read, or are of a class that the run does not have.
        """
        if not self.own:
            return load_shard(self.data, self.seed, self.partition, self.partitions)
        with _in_own_words(self.data.name):
            found = load_shard(self.data, self.seed, 0, 1)
            found = found if self.data.feature_columns else ordered(found)
            agreed, codes = self._numbers()
        if not found.classed:
            return found
        train, test = (torch.tensor(codes)[labels] for labels in (found.train_labels, found.test_labels))
        back = None if found.validation is None else (found.validation[0], torch.tensor(codes)[found.validation[1]])
        return replace(found, train_labels=train, test_labels=test, classes=agreed, validation=back)

    def originals(self) -> Originals | None:
        """The training pictures of the shard as they came, in its order; None where there are none but the shard's."""
        if not self.own:
            return originals_of(self.data, self.seed, self.partition, self.partitions)
        with _in_own_words(self.data.name):
            return originals_of(self.data, self.seed, 0, 1)

    def counts(self) -> list[int]:
        """All images by class, those that are tested on or left out among them (see `held_counts`)."""
        if not self.own:
            return held_counts(self.data, self.seed, self.partition, self.partitions)
        with _in_own_words(self.data.name):
            found = held_counts(self.data, self.seed, 0, 1)
            agreed, codes = self._numbers()
        told = [0] * len(agreed)
        for code, count in zip(codes, found, strict=True):
            told[code] += count
        return told

    def _numbers(self) -> tuple[tuple[str, ...], list[int]]:
        """The run's classes, and the place among them of each class of the folder (0 for those it has no image of)."""
        table, held = open_table(self.data), self._held()
        names = table.label.names
        if not table.classed:
            if self.classes and names != self.classes:
                raise SettingError(
                    f"{FOLDER} = {self.data.name!r} has targets {shown(names)}, and the run has {shown(self.classes)}; "
                    "name the column in data.label-column"
                )
            return names, [*range(len(names))]
        known = listed(self.data.classes)
        agreed = known or self.classes or union([[names[code] for code in held]])
        codes = places(names, agreed)
        if strange := [plain(names[code]) for code in held if codes[code] < 0]:
            raise SettingError(_stranger(self.data, strange[0], agreed, bool(known)))
        return agreed, [max(0, code) for code in codes]

    def _held(self) -> list[int]:
        """The classes, by the folder's own numbers, that it has images of, for training or for testing."""
        tables = (open_table(self.data), table_tested(self.data))
        return [int(code) for code in np.unique(np.concatenate([table.label.codes for table in tables]))]


def ordered(shard: Shard) -> Shard:
    """With its columns by their names, as they may stand in another order in another site's table."""
    order = sorted(range(len(shard.columns)), key=shard.columns.__getitem__)
    if order == [*range(len(order))]:
        return shard
    back = None if shard.validation is None else (shard.validation[0][:, order], shard.validation[1])
    train, test, columns = shard.train_images[:, order], shard.test_images[:, order], tuple(shard.columns[k] for k in order)
    return replace(shard, train_images=train, test_images=test, validation=back, columns=columns)


def _stranger(data: Data, name: str, agreed: tuple[str, ...], given: bool) -> str:
    who = f"{FOLDER} = {data.name!r} holds images of class {name!r}"
    if given:
        return f"{who}, which data.classes = {data.classes!r} lacks{near(name, list(agreed))}; add it there, or take them out"
    return (
        f"{who}, which is none of the run's classes ({shown(agreed)}){near(name, list(agreed))}; take them out, or begin a new "
        "run with this node or with all names in data.classes"
    )


def readable(given: str) -> Path:
    """A folder of data that is there and may be read.

    Raises:
        SettingError: it is not.
    """
    said, path = f"{FOLDER} = {given!r}", Path(given).expanduser()
    if not path.is_absolute():
        raise SettingError(f"{said} is relative, and a node works in a folder of its own; {GIVE}")
    if not path.exists():
        raise SettingError(f"{said}: there is no such folder on this machine; {GIVE}")
    if not path.is_dir():
        raise SettingError(f"{said} is a file; give the folder that it lies in")
    if not os.access(path, os.R_OK | os.X_OK):
        raise SettingError(f"{said} may not be read by the user that the node runs as; let them read it")
    return path


@contextmanager
def _in_own_words(folder: str) -> Iterator[None]:
    """Name what was given where data cannot be used, but no picture's file; say the fewest images in a site's words."""
    try:
        with unnamed():
            yield
    except SettingError as error:
        text = str(error)
        if text.startswith("1 clients are too many"):
            text = f"{FOLDER} = {folder!r} holds fewer than {FEWEST} images; it needs some to train on and one to be held out"
        raise SettingError(text.replace("data.name", FOLDER)) from error
