"""What accuracies are measured on where it is not held out of the clients' own images: the data set's own test split.

By `data.test`:

- held-out: each client's own images, see `fedwarm.data.shards`; the split is not looked at
- split: the split is dealt to the clients like the training images. Of each group of test images a client gets the share that it
  holds of the same group's training images, cut at random; groups are classes, the values of a column, or all images together, as
  the partition says. So a client is tested on what it trains on, and each test image belongs to one client at most; to none where
  no client holds training images of its group
- central: the split stays at the server, which measures the global model on the whole of it

With the last two clients train on all of their images, and who holds which training images is the same with all three.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from fedwarm.core.seeds import numpy_generator
from fedwarm.data.folders import TRAIN
from fedwarm.data.opening import has_splits, read_table
from fedwarm.data.partitions import ALIKE, BY_CLASS, partition_of
from fedwarm.data.settings import Data
from fedwarm.data.tables import Column, Rows, Table
from fedwarm.settings.fields import SettingError, near

HELD_OUT, SPLIT, CENTRAL = "held-out", "split", "central"
NOBODY = -1


def split_table(data: Data, train: Table) -> Table:
    """The split that is tested on, its labels numbered like those of the training split.

    Raises:
        SettingError: there is none, or it holds a class that the training split does not know.
    """
    if not has_splits(data.name):
        raise SettingError(
            f"data.test = {data.test!r} needs a data set with a test split of its own, and `{data.name}` has none; take "
            "data.test = 'held-out', or another data set"
        )
    if data.test_split == TRAIN:
        raise SettingError("data.test-split = 'train' is what clients train on; name another, or set data.test = 'held-out'")
    return _read(data.reading, data.test_split, train.label.names, train.features)


@lru_cache(maxsize=1)
def _read(data: Data, split: str, classes: tuple[str, ...], columns: tuple[str, ...]) -> Table:
    """The split as a table, kept beside the training split."""
    found = in_order(read_table(data, split), columns)
    if not found.classed:
        return found
    codes = aligned(found.label, classes)
    unknown = sorted({found.label.names[code] for code in np.unique(found.label.codes[codes == NOBODY])})
    if unknown:
        raise SettingError(
            f"{found.name} has {int((codes == NOBODY).sum())} images of classes that its training split lacks, the first of them "
            f"{unknown[0]!r}; leave those out, name another split in data.test-split, or set data.test = 'held-out'"
        )
    return replace(found, label=Column(codes, classes))


def in_order(table: Table, columns: tuple[str, ...]) -> Table:
    """A table of numbers with the columns of another, in their order, whatever else it has.

    Raises:
        SettingError: it lacks one.
    """
    if table.features == columns or not columns or table.form is None:
        return table
    if lacking := [column for column in columns if column not in table.features]:
        raise SettingError(
            f"{table.name} has no column {lacking[0]!r} of numbers, which is an input of its training split"
            f"{near(lacking[0], list(table.features))}; give it one, or name the inputs that both have in data.feature-columns"
        )
    order = torch.tensor([table.features.index(column) for column in columns])
    form = replace(table.form, shape=(len(columns),), columns=columns)
    return replace(table, images=lambda rows: table.images(rows)[:, order], form=form)


def aligned(column: Column, names: Sequence[str]) -> Rows:
    """The column's values as indices into other names, -1 where those lack one."""
    known = {name: code for code, name in enumerate(names)}
    return np.array([known.get(name, NOBODY) for name in column.names], dtype=np.int64)[column.codes]


def dealt(data: Data, seed: int, train: Table, rows: Sequence[Rows], test: Table) -> list[Rows]:
    """Each client's rows of the test split, ascending; some may have none.

    Args:
        data: names the partition.
        seed: decides which images of a group are whose.
        train: the training split.
        rows: what each client holds of it.
        test: the test split.

    Raises:
        SettingError: the split lacks the partition's column, or nothing in it belongs to a client.
    """
    known, asked = _groups(data, train, test)
    held, owners = known[np.concatenate(rows)], np.repeat(np.arange(len(rows)), [len(own) for own in rows])
    order = np.argsort(held, kind="stable")
    held, owners = held[order], owners[order]
    parts: list[list[Rows]] = [[] for _ in rows]
    for group in np.unique(asked[asked != NOBODY]):
        start, end = np.searchsorted(held, [group, group + 1])
        clients, counts = np.unique(owners[start:end], return_counts=True)
        draws = numpy_generator(seed, "test-split", int(group))
        turn = draws.permutation(len(clients))  # so that what rounding leaves over goes to anybody
        shuffled = draws.permutation(np.flatnonzero(asked == group))
        for client, part in zip(clients[turn], _cut(shuffled, counts[turn]), strict=True):
            parts[client].append(part)
    if not any(parts):
        raise SettingError(
            f"nothing in {test.name} belongs to a client: data.partition = {data.partition!r} finds none of the clients' ids in "
            "it; set data.test = 'central' or 'held-out'"
        )
    return [np.sort(np.concatenate([np.empty(0, dtype=np.int64), *own])) for own in parts]


def _cut(rows: Rows, counts: Rows) -> list[Rows]:
    """The rows in parts as large as the counts are to each other, as near as whole numbers come."""
    whole = int(counts.sum())
    if not whole:
        return []
    ends = (2 * np.cumsum(counts) * len(rows) + whole) // (2 * whole)
    return np.split(rows, ends[:-1])


def _groups(data: Data, train: Table, test: Table) -> tuple[Rows, Rows]:
    """The group of every training and of every test image; -1 for a test image whose group the training split lacks."""
    by: Any = getattr(partition_of(data), "tests", BY_CLASS)
    if by == ALIKE:
        return np.zeros(len(train), dtype=np.int64), np.zeros(len(test), dtype=np.int64)
    if by == BY_CLASS:
        return train.label.codes, test.label.codes
    name = str(by(train, data))
    if name not in test.columns:
        raise SettingError(
            f"data.partition = {data.partition!r} deals {test.name} by column {name!r}, which it lacks; it has "
            f"{', '.join(test.columns)}: set data.test = 'central' or 'held-out'"
        )
    own = train.column(name)
    return own.codes, aligned(test.column(name), own.names)
