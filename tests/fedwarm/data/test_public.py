"""The public part of a data set: the same in all runs, a share of every class, and in no client's hands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedwarm.data import default_clients, held_counts, load_pooled, load_shard, partition_table
from fedwarm.data.partitions import client_rows, own_clients
from fedwarm.data.sets.digits import digits_table
from fedwarm.data.settings import Data
from fedwarm.data.tables import Rows, Table, coded, private_part, public_rows
from fedwarm.settings.fields import SettingError

DIGITS = digits_table(32)
KINDS = [("domain", 4), ("domain", 10), ("iid", 30), ("dirichlet", 6), ("pathological", 10), ("natural", 4)]


def made(labels: Sequence[int], **columns: Sequence[int] | Sequence[str]) -> Table:
    """A table whose pictures are their row's number."""
    held = {"label": coded(labels)} | {name: coded(values) for name, values in columns.items()}

    def images(rows: Rows) -> torch.Tensor:
        return torch.from_numpy(rows).view(-1, 1, 1, 1).expand(-1, 3, 8, 8).to(torch.uint8)

    return Table("made", held["label"], tuple(held), held.__getitem__, images)


@pytest.mark.parametrize(("kind", "clients"), KINDS)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_no_client_holds_what_is_public(kind: str, clients: int, share: float) -> None:
    public = public_rows(DIGITS, share)
    for seed in (0, 1, 2**53):
        parts = client_rows(DIGITS, Data(partition=kind, public_share=share), seed, clients)
        held = np.concatenate(parts)
        assert len(parts) == clients and len(np.unique(held)) == len(held)
        assert not np.intersect1d(held, public).size
        assert len(held) + len(public) == len(DIGITS)


@pytest.mark.parametrize(("kind", "clients"), KINDS)
def test_nothing_public_changes_nothing(kind: str, clients: int) -> None:
    table, rows = private_part(DIGITS, 0.0)
    assert table is DIGITS and rows.tolist() == list(range(1797))
    assert len(public_rows(DIGITS, 0.0)) == 0
    assert Data(partition=kind).public_share == 0


def test_shards_are_of_the_private_part() -> None:
    data = Data(partition="dirichlet", public_share=0.4, max_examples=50)
    public = {image.numpy().tobytes() for image in DIGITS.images(public_rows(DIGITS, 0.4))}
    pooled, shards = load_pooled(data, 3, 5), [load_shard(data, 3, i, 5) for i in range(5)]
    assert partition_table(data, 3, 5) == [shard.counts() for shard in shards]
    for shard in (pooled, *shards):
        for image in torch.cat([shard.train_images, shard.test_images]):
            assert image.numpy().tobytes() not in public


def test_labels_and_images_stay_together() -> None:
    table, rows = private_part(DIGITS, 0.3)
    assert len(table) == len(rows) and (np.diff(rows) > 0).all()
    np.testing.assert_array_equal(table.label.codes, DIGITS.label.codes[rows])
    np.testing.assert_array_equal(table.column("domain").codes, DIGITS.column("domain").codes[rows])
    few = np.array([0, 7, len(table) - 1])
    assert torch.equal(table.images(few), DIGITS.images(rows[few]))


@given(
    labels=st.lists(st.integers(0, 6), min_size=1, max_size=80),
    share=st.floats(0, 0.9),
    more=st.floats(0, 0.9),
)
@settings(max_examples=80)
def test_every_class_gives_its_share(labels: list[int], share: float, more: float) -> None:
    table = made(labels)
    chosen = public_rows(table, share)
    assert (np.diff(chosen) > 0).all()
    for code in range(len(table.label.names)):
        n, taken = int((table.label.codes == code).sum()), int((table.label.codes[chosen] == code).sum())
        assert taken == min(round(share * n), n - 1) and taken < n
    low, high = sorted((share, more))
    assert set(public_rows(table, low)) <= set(public_rows(table, high))


def test_it_depends_on_labels_and_share_alone() -> None:
    labels, users = [i % 3 for i in range(60)], [f"u{i % 7}" for i in range(60)]
    first = public_rows(made(labels), 0.5)
    np.testing.assert_array_equal(first, public_rows(made(labels, user_id=users), 0.5))
    np.testing.assert_array_equal(public_rows(DIGITS, 0.5), public_rows(digits_table(16), 0.5))
    assert not np.array_equal(first, np.arange(30)) and len(first) == 30
    other = public_rows(made([(i + 1) % 3 for i in range(60)]), 0.5)
    assert not np.array_equal(first, other)


def test_the_numbers_stay_what_they_are() -> None:
    """A foundation that was trained long ago is to stay disjoint from the clients of today."""
    assert public_rows(made([0] * 10 + [1] * 10), 0.3).tolist() == [3, 4, 5, 10, 12, 16]


def test_ids_that_are_left_with_too_few_images_make_no_client() -> None:
    labels, users = [0] * 12, [f"u{i // 3}" for i in range(12)]
    table, data = made(labels, user_id=users), Data(partition="natural", public_share=0.5)
    public = public_rows(table, 0.5)
    left = [3 - int(np.isin(public, range(3 * u, 3 * u + 3)).sum()) for u in range(4)]
    able = [u for u in range(4) if left[u] >= 2]
    assert 0 < len(able) < 4 == own_clients(table, Data(partition="natural"))
    assert own_clients(table, data) == len(able)
    parts = client_rows(table, data, 0, len(able))
    assert [set(rows // 3) for rows in parts] == [{u} for u in able]
    with pytest.raises(SettingError, match=f"4 clients are more than the {len(able)} ids of made without its public part"):
        client_rows(table, data, 0, 4)


def test_a_domain_that_is_all_but_public_counts_no_more() -> None:
    table = made([0] * 20, domain=["a"] * 18 + ["b"] * 2)
    shares = [share for share in (0.5, 0.6, 0.7, 0.8, 0.9) if {18, 19} <= set(public_rows(table, share))]
    assert shares
    data = Data(partition="domain", public_share=shares[0])
    assert own_clients(table, data) == 1 and own_clients(table, replace(data, public_share=0.0)) == 2


def test_the_suggested_number_of_clients_is_of_the_private_part() -> None:
    assert default_clients(Data(partition="domain", public_share=0.5)) == 4


def test_too_many_clients_for_the_private_part() -> None:
    few = "899 clients are too many for the 899 images of digits without its public part.*at most 449 clients"
    with pytest.raises(SettingError, match=few):
        partition_table(Data(partition="iid", public_share=0.5), 0, 899)


def test_held_counts_are_all_of_a_clients_images() -> None:
    data = Data(partition="dirichlet", alpha=0.5, max_examples=20)
    whole, few = [held_counts(replace(data, max_examples=n), 0, 1, 4) for n in (0, 20)]
    shard = load_shard(replace(data, max_examples=0), 0, 1, 4)
    tests = torch.bincount(shard.test_labels, minlength=10).tolist()
    assert whole == few == [a + b for a, b in zip(shard.counts(), tests, strict=True)]
