"""What one client holds: its rows of the data set, and those that it is tested on, as tensors.

Everything is a pure function of the data settings, the run's seed, the client's partition and the number of partitions. Data set
and partition are kept once in a process; a shard's tensors are copies, so whoever gets one may write to it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from fedwarm.core.inputs import Form
from fedwarm.core.seeds import numpy_generator
from fedwarm.data.heldout import check_groups, draw, groups_of, held
from fedwarm.data.opening import kept_table
from fedwarm.data.originals import Originals
from fedwarm.data.partitions import client_rows, own_clients, partition_of
from fedwarm.data.rotation import angle_of, rotated
from fedwarm.data.scaling import Scale, scale_of, scaled
from fedwarm.data.settings import Data
from fedwarm.data.tables import Rows, Table
from fedwarm.data.testing import CENTRAL, HELD_OUT, SPLIT, dealt, split_table
from fedwarm.settings.fields import SettingError

CLIENTS = 10


@dataclass(frozen=True, eq=False)
class Shard:
    """The examples of one client, or of all of them.

    Attributes:
        train_images: inputs, uint8 (n, 3, S, S) of pictures, else (n, *shape) of the data set's dtype.
        train_labels: targets, int64 (n,) of classes, else (n, ..) as `Table.targets` are.
        test_images: as the training inputs (m, *shape); m may be 0 where they are not held out.
        test_labels: as the training targets (m, ..).
        classes: class names, into which a label is an index; or the names of what a model answers.
        vocabulary: of inputs that are tokens, how many different ones there are.
        classed: whether targets are classes.
        validation: training inputs and targets that are held back (`data.validation-fraction`); None where none are.
        columns: of a table of numbers, what they are called.
        fitted: whether inputs were scaled by statistics of training examples.
    """

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    classes: tuple[str, ...]
    vocabulary: int = 0
    classed: bool = True
    validation: tuple[Tensor, Tensor] | None = None
    fitted: bool = False
    columns: tuple[str, ...] = ()

    @property
    def form(self) -> Form:
        """What one input looks like."""
        return Form.of(self.train_images, self.vocabulary, self.columns)

    def counts(self) -> list[int]:
        """Training examples of each class; none where there are no classes."""
        if not self.classed:
            return []
        return [int(count) for count in torch.bincount(self.train_labels, minlength=len(self.classes))]

    def joined(self, images: Tensor, labels: Tensor) -> Shard:
        """With more training images, uint8 (k, 3, S, S) and int64 (k,), after its own; what it tests on stays as it is."""
        if not len(labels):
            return self
        return replace(
            self, train_images=torch.cat([self.train_images, images]), train_labels=torch.cat([self.train_labels, labels])
        )


def load_shard(data: Data, seed: int, partition: int, partitions: int) -> Shard:
    """The images of client number `partition` of `partitions`.

    Raises:
        SettingError: the data set cannot be read, the partition cannot be made, or there is no such client.
    """
    if not 0 <= partition < max(partitions, 1):
        raise SettingError(
            f"there is no partition {partition}; {partitions} clients have the partitions 0 to {partitions - 1}: "
            "correct partition-id or num-partitions"
        )
    shard = _gathered(data, [_splits(data, seed, partitions)[partition]], shared_scale(data, seed, partitions))
    if data.rotation and not shard.form.pictures:
        raise SettingError(
            f"data.rotation = {data.rotation:g} turns pictures, and {open_table(data).name} has {shard.form}; set it to 0"
        )
    return shard if not data.rotation else _turned(shard, angle_of(data, seed, partition))


def load_pooled(data: Data, seed: int, partitions: int) -> Shard:
    """The union of all clients' shards, in the order of the partitions: what federated learning does without."""
    if data.rotation:
        return _united([load_shard(data, seed, partition, partitions) for partition in range(partitions)])
    return _gathered(data, _splits(data, seed, partitions), shared_scale(data, seed, partitions))


def originals_of(data: Data, seed: int, partition: int, partitions: int) -> Originals | None:
    """A client's training pictures as they came, in the order of its shard; None where its data set has none but the shard's."""
    read, rows = open_table(data).originals, _splits(data, seed, partitions)[partition][0]
    return None if read is None else Originals(read, rows, angle_of(data, seed, partition) if data.rotation else 0.0)


def default_clients(data: Data) -> int:
    """Clients when the user says nothing: one per domain (`domain`) or id (`natural`), else 10."""
    if not hasattr(partition_of(data), "clients"):
        return CLIENTS
    return own_clients(open_table(data), data) or CLIENTS


def partition_table(data: Data, seed: int, partitions: int) -> list[list[int]]:
    """Training images per client and class, without decoding an image."""
    label = open_table(data).label
    splits = _splits(data, seed, partitions)
    return [[int(count) for count in np.bincount(label.codes[train], minlength=len(label.names))] for train, *_ in splits]


def held_counts(data: Data, seed: int, partition: int, partitions: int) -> list[int]:
    """All images of a client by class: those for training and testing, and those that `max_examples` leaves out.

    One image more or less changes one number by one, which of the numbers of a shard is not true.
    """
    label = open_table(data).label
    rows = client_rows(open_table(data), data, seed, partitions)[partition]
    return [int(count) for count in np.bincount(label.codes[rows], minlength=len(label.names))]


def open_table(data: Data) -> Table:
    """The data set of the settings; the last one is kept in the process.

    Raises:
        SettingError: it cannot be read, or there is none, as each node brings its own.
    """
    if data.own:
        raise SettingError(
            f"data.name = {data.name!r} is what each real node holds in a folder of its own, and nothing is dealt from here; run "
            "with --engine deployment, or take another data.name"
        )
    return kept_table(data)


def count_tests(data: Data, seed: int, partitions: int) -> list[int]:
    """Test images of each client, without decoding an image."""
    return [len(test) for _, test, _ in _splits(data, seed, partitions)]


def all_tests(data: Data, seed: int, partitions: int) -> tuple[Table, Rows]:
    """All images that accuracies are measured on, at the clients or at the server: a table, and rows of it."""
    if data.test == CENTRAL:
        if data.rotation:
            raise SettingError(
                f"data.rotation = {data.rotation:g} turns each client's images, and data.test = 'central' tests on images of no "
                "client; take data.test = 'split' or 'held-out'"
            )
        table = split_table(data, open_table(data))
        return table, np.arange(len(table))
    return table_tested(data), np.concatenate([test for _, test, _ in _splits(data, seed, partitions)])


def table_tested(data: Data) -> Table:
    """What the clients' rows for testing are rows of."""
    return split_table(data, open_table(data)) if data.test == SPLIT else open_table(data)


@lru_cache(maxsize=4)
def _splits(data: Data, seed: int, partitions: int) -> list[tuple[Rows, Rows, Rows]]:
    """Each client's rows for training, for testing, which are rows of `table_tested`, and those held back for validation."""
    table = open_table(data)
    parts = split_rows(table, data, seed, partitions)
    tests = [test for _, test in parts]
    if data.test == SPLIT:
        tests = dealt(data, seed, table, client_rows(table, data, seed, partitions), table_tested(data))
    groups = groups_of(table, data)
    kept = [held_back(data, table.label.codes, train, seed, i, groups) for i, (train, _) in enumerate(parts)]
    return [(train, test, back) for (train, back), test in zip(kept, tests, strict=True)]


def split_rows(table: Table, data: Data, seed: int, partitions: int) -> list[tuple[Rows, Rows]]:
    """Each client's rows for training, those held back among them, and those held out; none are where `data.test` is another."""
    parts, groups = client_rows(table, data, seed, partitions), groups_of(table, data)
    if groups is not None:
        check_groups(groups, parts, data)
    return [split(data, table.label.codes, rows, seed, i, groups) for i, rows in enumerate(parts)]


def held_back(data: Data, labels: Rows, rows: Rows, seed: int, partition: int, groups: Rows | None = None) -> tuple[Rows, Rows]:
    """A client's rows for training, and those held back for validation: a share, but one row or group at least stays of two."""
    if not data.validation_fraction:
        return rows, rows[:0]
    back = held(labels, rows, data.validation_fraction, numpy_generator(seed, "validation", partition), groups)
    return rows[~back], rows[back]


def split(data: Data, labels: Rows, rows: Rows, seed: int, partition: int, groups: Rows | None = None) -> tuple[Rows, Rows]:
    """One client's rows for training and those held out, by the labels (n,) of all rows, and by their groups."""
    test = np.zeros(len(rows), dtype=bool)
    if data.test == HELD_OUT:
        test = held(labels, rows, data.test_fraction, numpy_generator(seed, "holdout", partition), groups)
    train = rows[~test]
    if 0 < data.max_examples < len(train):
        surplus = draw(labels[train], len(train) - data.max_examples, numpy_generator(seed, "max-examples", partition))
        train = train[~surplus]
    return train, rows[test]


@lru_cache(maxsize=4)
def shared_scale(data: Data, seed: int, partitions: int) -> Scale | None:
    """How columns of numbers are scaled, by all training examples; None: a model sees them as they are."""
    table = open_table(data)
    return scale_of(table, data, lambda: np.concatenate([train for train, *_ in _splits(data, seed, partitions)]))


def central_tests(data: Data, seed: int, partitions: int) -> tuple[Table, Rows]:
    """The test split at the server, as a model sees it; and its rows."""
    table, rows = all_tests(data, seed, partitions)
    return scaled(table, shared_scale(data, seed, partitions)), rows


def _gathered(data: Data, splits: list[tuple[Rows, Rows, Rows]], scale: Scale | None) -> Shard:
    table, tests = scaled(open_table(data), scale), scaled(table_tested(data), scale)
    train, test, back = (np.concatenate([split[i] for split in splits]) for i in range(3))
    form, fitted = table.form_at(data.image_size), scale is not None and scale.learned
    validation = _labelled(table, back, form) if data.validation_fraction else None
    examples = (*_labelled(table, train, form), *_labelled(tests, test, form))
    return Shard(*examples, table.label.names, form.vocabulary, table.classed, validation, fitted, form.columns)


def _turned(shard: Shard, degrees: float) -> Shard:
    tests = rotated(shard.test_images, degrees)
    back = None if shard.validation is None else (rotated(shard.validation[0], degrees), shard.validation[1])
    return replace(shard, train_images=rotated(shard.train_images, degrees), test_images=tests, validation=back)


def _united(shards: list[Shard]) -> Shard:
    """All shards' images in their order."""
    fields = ("train_images", "train_labels", "test_images", "test_labels")
    train_images, train_labels, test_images, test_labels = (torch.cat([getattr(s, name) for s in shards]) for name in fields)
    back = [shard.validation for shard in shards if shard.validation is not None]
    return replace(
        shards[0], train_images=train_images, train_labels=train_labels, test_images=test_images, test_labels=test_labels,
        validation=(torch.cat([images for images, _ in back]), torch.cat([labels for _, labels in back])) if back else None,
    )  # fmt: skip


def _labelled(table: Table, rows: Rows, form: Form) -> tuple[Tensor, Tensor]:
    """Inputs (k, *shape) and targets (k, ..) of some rows, or of none."""
    return table.images(rows) if len(rows) else form.empty(), table.answers(rows)


def form_of(data: Data) -> Form:
    """What one input looks like; of nodes' own data, pictures of the side `data.image-size` until they tell."""
    return Form.picture(data.image_size) if data.own else open_table(data).form_at(data.image_size)
