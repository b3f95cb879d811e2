"""What every data set of a name keeps to, an installed package's own among them; each check can be called for any set."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from fedwarm.data.opening import has_splits, read_table
from fedwarm.data.settings import Data
from fedwarm.data.shards import load_shard, open_table
from fedwarm.settings.fields import SettingError
from fedwarm.settings.kinds import SETS
from fedwarm.settings.registry import Kind

Check = Callable[[Kind[Any], str], None]


def data_of(name: str) -> Data:
    return Data(name=name, image_size=16, partition="iid")


def check_labels(kind: Kind[Any], name: str) -> None:
    """Labels are places in the list of classes, each of which has an image; where they are told alone, they are the same."""
    table = open_table(data_of(name))
    codes, names = table.label.codes, table.label.names
    assert codes.dtype == np.int64 and codes.shape == (len(table),) and len(set(names)) == len(names) > 1
    assert set(codes.tolist()) == set(range(len(names)))
    if labels := getattr(kind.load(name), "labels", None):
        assert np.array_equal(labels(data_of(name)), codes)


def check_images(kind: Kind[Any], name: str) -> None:
    """Inputs are as the set's form says, in the order of the rows asked for, and the same when the set is read anew."""
    table, rows = open_table(data_of(name)), np.array([3, 0, 3, 1])
    images = table.images(rows)
    form = table.form_at(16)
    assert images.shape == (4, *form.shape) and str(images.dtype) == f"torch.{form.dtype}"
    assert form.dtype != "int64" or int(images.max()) < form.vocabulary
    assert torch.equal(images[0], images[2]) and torch.equal(images[1:2], table.images(rows[1:2]))
    torch.manual_seed(17)
    again = read_table(data_of(name))
    assert torch.equal(again.images(rows), images) and np.array_equal(again.label.codes, table.label.codes)
    if form.pictures:
        assert read_table(replace(data_of(name), image_size=8)).images(rows).shape == (4, 3, 8, 8)


def check_columns(kind: Kind[Any], name: str) -> None:
    """A column that is there can be read as ids, or is refused; one that is not there is refused by name."""
    table = open_table(data_of(name))
    for column in table.columns:
        with suppress(SettingError):
            assert table.column(column).codes.shape == (len(table),)
    with pytest.raises(SettingError, match="no_such_column"):
        table.column("no_such_column")


def check_kept(kind: Kind[Any], name: str) -> None:
    """The set is read once for all clients of a run; who holds what is nothing to it."""
    assert open_table(data_of(name)) is open_table(replace(data_of(name), max_examples=5, test_fraction=0.5))


def check_tested(kind: Kind[Any], name: str) -> None:
    """A test split is had where the set has splits, and else refused in one line that says what to do."""
    data = replace(data_of(name), test="split")
    if has_splits(name):
        assert len(load_shard(data, 0, 0, 1).test_labels)
        return
    with pytest.raises(SettingError, match="data.test = 'held-out'") as caught:
        load_shard(data, 0, 0, 1)
    assert name in str(caught.value) and len(str(caught.value).splitlines()) == 1


CHECKS: tuple[Check, ...] = (check_labels, check_images, check_columns, check_kept, check_tested)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", SETS)
def test_contract(name: str, check: Check) -> None:
    check(SETS, name)
