"""Rows of a table by their values, and as flwr-datasets' partitioners deal them."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np

from fedwarm.core.seeds import numpy_generator
from fedwarm.data.tables import Column, Rows, Table
from fedwarm.settings.fields import SettingError

FEWEST = 2

if TYPE_CHECKING:
    from flwr_datasets.partitioner import Partitioner


NEED = f"each needs at least {FEWEST}, so that one can be held out"


def dealt(partitioner: Partitioner, table: Table, seed: int, partitions: int, refusal: str) -> list[Rows]:
    """What flwr-datasets' partitioner makes of the shuffled rows; its own complaint becomes a SettingError.

    The labels' `select` hands back the row numbers themselves: a Dataset's own hashes them one by one, seconds for a large set.
    """
    from datasets import Dataset

    order = shuffled(table, seed)
    labels = Dataset.from_dict({"label": table.label.codes[order]}).with_format("arrow")
    labels.select = np.asarray
    partitioner.dataset = labels
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return [order[partitioner.load_partition(i)] for i in range(partitions)]
    except ValueError as error:
        raise SettingError(refusal) from error


def shuffled(table: Table, seed: int) -> Rows:
    return numpy_generator(seed, "partition").permutation(len(table))


def present(column: Column) -> Rows:
    return np.unique(column.codes)


def eligible(column: Column) -> Rows:
    return np.flatnonzero(np.bincount(column.codes, minlength=len(column.names)) >= FEWEST)


def grouped(column: Column, codes: Rows) -> list[Rows]:
    """The rows of each of the codes, by one sort."""
    order = np.argsort(column.codes, kind="stable")
    starts, ends = (np.searchsorted(column.codes[order], codes, side) for side in ("left", "right"))
    return [order[start:end] for start, end in zip(starts, ends, strict=True)]


def evenly(count: int, most: int) -> Rows:
    """At most so many of `count` rows, at even distances: data that are stored class by class show all of them."""
    return np.arange(min(count, most)) * count // max(1, min(count, most))
