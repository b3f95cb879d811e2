"""Planted groups: every class is dealt evenly, pictures are turned and labels exchanged by group, and nothing else changes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from fedwarm.catalogue import parse
from fedwarm.data.opening import read_table
from fedwarm.data.sets.planted import exchanges
from fedwarm.data.settings import Data
from fedwarm.data.shards import load_shard
from fedwarm.settings.fields import SettingError, Value


def data_of(**given: Value) -> Data:
    flat: dict[str, Value] = {"data.name": "planted", "data.image-size": 8}
    return parse({**flat, **{f"planted.{key}": value for key, value in given.items()}}).of(Data)


BASE = parse({"data.image-size": 8}).of(Data)


@pytest.mark.parametrize("groups", [2, 4])
def test_pictures_are_turned_by_group(groups: int) -> None:
    base, table, rows = read_table(BASE), read_table(data_of(groups=groups)), np.arange(0, 1797, 7)
    turned, plain, group = table.images(rows), base.images(rows), table.column("domain").codes[rows]
    for g in range(groups):
        assert torch.equal(turned[group == g], torch.rot90(plain[group == g], g * 4 // groups, (2, 3)))
    assert np.array_equal(table.label.codes, base.label.codes)
    assert table.column("domain").names[1] == ("180 degrees" if groups == 2 else "90 degrees")


def test_every_class_is_dealt_evenly_and_exchanged_labels_are_orders() -> None:
    base, table = read_table(BASE), read_table(data_of(change="labels", groups=3))
    group = table.column("domain").codes
    counts = np.array([np.bincount(base.label.codes[group == g], minlength=10) for g in range(3)])
    assert (counts.max(0) - counts.min(0)).max() <= 1
    orders = exchanges(10, 3)
    assert all(sorted(order) == list(range(10)) for order in orders.tolist())
    assert len({tuple(order) for order in orders.tolist()}) == 3
    assert np.array_equal(table.label.codes, orders[group, base.label.codes])
    rows = np.arange(9)
    assert torch.equal(table.images(rows), base.images(rows))


def test_a_client_of_the_domain_partition_is_of_one_group() -> None:
    """Eight clients are two of each group, and no picture is two clients'."""
    data = replace(data_of(), partition="domain")
    shards = [load_shard(data, 3, k, 8) for k in range(8)]
    assert sum(len(s.train_labels) + len(s.test_labels) for s in shards) == 1797
    assert max(len(s.train_labels) for s in shards) - min(len(s.train_labels) for s in shards) <= 10


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"groups": 3}, "cannot be told apart by quarter turns; take 2 or 4"),
        ({"base": "planted"}, "cannot be divided into groups again"),
    ],
)
def test_what_cannot_be_planted_is_refused(given: dict[str, Value], said: str) -> None:
    with pytest.raises(SettingError, match=said):
        read_table(data_of(**given))
