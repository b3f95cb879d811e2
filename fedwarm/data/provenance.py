"""What something was trained on, told so that the same images are found again: the data set's content, and which rows of it.

Rows are a function of the settings `data.*`, the seed and the number of clients, so those say which they are. The data set is
known by its labels in their order and by a few of its pictures, wherever it lies and whatever it is called.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from fedwarm.data.sets import data_set
from fedwarm.data.settings import READING, Data
from fedwarm.data.shards import all_tests, open_table, split_rows
from fedwarm.data.tables import Rows, Table, public_of
from fedwarm.settings.fields import SettingError, keys

TRAIN, PUBLIC, WHOLE = "train", "public", "whole"
LOOKED_AT = 64
ELSEWHERE = ("feature_columns", "standardise", "missing_values", "length", "alphabet")  # of no picture: told where they are set
_read: set[Data] = set()


@dataclass(frozen=True)
class Marks:
    """A data set's labels and some of its pictures as SHA-256; empty where that is not known."""

    labels: str = ""
    images: str = ""


@dataclass(frozen=True)
class Source:
    """Images that something was trained on.

    Attributes:
        part: `train`, what all clients of a run trained on; `public`, the public part; `whole`, all there is.
        data: the settings of that run; its `name` is for people and counts where there are no marks.
        seed, clients: of that run.
        marks: know the data set again.
    """

    part: str
    data: Data
    seed: int = 0
    clients: int = 0
    marks: Marks = Marks()

    def told(self) -> dict[str, Any]:
        """As JSON."""
        told = [(key, getattr(self.data, f.name), f) for key, _, f in keys((Data,))]
        data = {key: value for key, value, f in told if f.name not in ELSEWHERE or value != f.default}
        return {"part": self.part, "seed": self.seed, "clients": self.clients, "sha256": asdict(self.marks), "data": data}

    @staticmethod
    def read(told: Mapping[str, Any]) -> Source:
        """Out of what `told` gave; settings that this version does not know say nothing to it.

        Raises:
            KeyError, TypeError, ValueError: it is none.
        """
        marks = told["sha256"]
        given = (str(told["part"]), data_of(told["data"]), int(told["seed"]), int(told["clients"]))
        return Source(*given, Marks(str(marks["labels"]), str(marks["images"])))

    def rows(self, table: Table) -> Rows:
        """Which rows of its data set these images are; all of them where that cannot be told."""
        try:
            if self.part == TRAIN:
                return np.concatenate([train for train, _ in split_rows(table, self.data, self.seed, self.clients)])
            if self.part == PUBLIC:
                return public_of(table, self.data.public_share, self.data.public_where)
        except SettingError:
            pass
        return np.arange(len(table))


def data_of(settings: Mapping[str, Any]) -> Data:
    """The settings `data.*` among others."""
    return Data(**{f.name: settings[key] for key, _, f in keys((Data,)) if key in settings})


def source_of(part: str, data: Data, seed: int = 0, clients: int = 0) -> Source:
    """A source of this run's data, its name without the folders above it."""
    told = marks(data) or Marks()
    path = os.path.expanduser(data.name)
    name = Path(path).name if os.path.isabs(path) or os.path.isdir(path) else data.name
    return Source(part, replace(data, name=name), seed, clients, told)


def marks(data: Data, *, read: bool = False) -> Marks | None:
    """A data set's marks; None for one of the Hub that this process has not read, as it may be elsewhere, and for nodes' own.

    Args:
        data: names it.
        read: read it.

    Raises:
        SettingError: it cannot be read.
    """
    if data.own:
        return None
    if read:
        _read.add(data)
    if read or data in _read or data_set(data.name) is not None or os.path.isdir(os.path.expanduser(data.name)):
        return _marks(data)
    return None


@lru_cache(maxsize=8)
def _marks(data: Data) -> Marks:
    labels = _labels(data)
    return Marks(_digest(labels(data.reading))) if labels is not None else marks_of(open_table(data), data)


def _labels(data: Data) -> Callable[[Data], Rows] | None:
    """The fact `labels` of the data set, see `fedwarm.data.sets`."""
    found: Callable[[Data], Rows] | None = getattr(data_set(data.name), "labels", None)
    return found


def marks_of(table: Table, data: Data) -> Marks:
    """Of a table, by a few of its pictures at even distances, or by its labels alone where those say which data set it is."""
    if _labels(data) is not None:
        return Marks(labels_mark(table))
    rows = np.unique(np.linspace(0, len(table) - 1, LOOKED_AT).astype(np.int64))
    return Marks(labels_mark(table), hashlib.sha256(table.images(rows).numpy().tobytes()).hexdigest())


def labels_mark(table: Table) -> str:
    """SHA-256 over a table's labels or other targets, by which a data set is known again wherever it lies."""
    if table.targets is not None:
        return hashlib.sha256(table.targets.contiguous().numpy().tobytes()).hexdigest()
    return _digest(table.label.codes)


def _digest(labels: Rows) -> str:
    return hashlib.sha256(labels.astype("<i8").tobytes()).hexdigest()


def seen(source: Source, data: Data, seed: int, clients: int) -> int:
    """How many of a run's test images a source holds.

    Raises:
        SettingError: the run's data cannot be had.
    """
    table, rows = all_tests(data, seed, clients)
    return len(np.intersect1d(source.rows(table), rows)) if _same(source, data, table) else 0


def _same(source: Source, data: Data, table: Table) -> bool:
    """Whether a source is of this table: by the labels, and by the pictures where both were made alike."""
    if source.data.own:  # which nobody but the nodes knows
        return False
    if not source.marks.labels:
        return data.test != "split" and data.test != "central" and source.data.name == source_of(WHOLE, data).data.name
    if source.marks.labels != labels_mark(table):
        return False
    alike = source.marks.images and all(getattr(data, name) == getattr(source.data, name) for name in READING if name != "name")
    return not alike or source.marks.images == marks_of(table, data).images
