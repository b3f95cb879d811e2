"""Shards: hold-out, subset, tables of counts, and that everything is a function of its arguments."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedwarm.data import Shard, default_clients, load_pooled, load_shard, partition_table
from fedwarm.data.heldout import draw
from fedwarm.data.opening import made
from fedwarm.data.sets.digits import digits_table
from fedwarm.data.settings import Data
from fedwarm.data.shards import open_table, split
from fedwarm.settings.fields import SettingError

KINDS = [("domain", 4), ("domain", 10), ("iid", 30), ("dirichlet", 6), ("pathological", 10), ("natural", 4)]


def prints(shard: Shard, which: str) -> Counter[bytes]:
    """The images of a shard as a bag; every picture of digits is different."""
    images = shard.train_images if which == "train" else shard.test_images
    return Counter(image.numpy().tobytes() for image in images)


@pytest.mark.parametrize(("kind", "clients"), KINDS)
def test_shards_are_disjoint_and_together_the_whole_set(kind: str, clients: int) -> None:
    data = Data(partition=kind)
    shards = [load_shard(data, 1, i, clients) for i in range(clients)]
    bag = sum((prints(shard, which) for shard in shards for which in ("train", "test")), Counter())
    whole = Counter(image.numpy().tobytes() for image in digits_table(32).images(np.arange(1797)))
    assert len(whole) == 1797
    assert bag == whole


@pytest.mark.parametrize(("kind", "clients"), KINDS)
def test_the_table_counts_the_shards(kind: str, clients: int) -> None:
    data = Data(partition=kind, max_examples=40)
    table = partition_table(data, 2, clients)
    assert table == [load_shard(data, 2, i, clients).counts() for i in range(clients)]
    assert all(type(count) is int for row in table for count in row)


def test_a_shard_is_a_function_of_its_arguments() -> None:
    data = Data(partition="iid")
    first = load_shard(data, 7, 3, 20)
    load_shard(data, 8, 3, 20)
    made.cache_clear()
    digits_table.cache_clear()
    again, seed, client = load_shard(data, 7, 3, 20), load_shard(data, 8, 3, 20), load_shard(data, 7, 4, 20)
    assert torch.equal(first.train_images, again.train_images) and torch.equal(first.test_labels, again.test_labels)
    assert prints(first, "train") != prints(seed, "train")
    assert not prints(first, "train") & prints(client, "train")


def test_the_shapes_types_and_names_are_as_promised() -> None:
    shard = load_shard(Data(image_size=28), 0, 0, 4)
    n, m = len(shard.train_labels), len(shard.test_labels)
    assert (n, m) == (338, 112)
    assert shard.train_images.shape == (n, 3, 28, 28) and shard.test_images.shape == (m, 3, 28, 28)
    assert shard.train_images.dtype == shard.test_images.dtype == torch.uint8
    assert shard.train_labels.dtype == shard.test_labels.dtype == torch.int64
    assert shard.classes[0] == "zero" and len(shard.counts()) == 10 and sum(shard.counts()) == n


def test_labels_belong_to_their_images() -> None:
    table = digits_table(32)
    pictures = table.images(np.arange(1797))
    label_of = {image.numpy().tobytes(): int(label) for image, label in zip(pictures, table.label.codes, strict=True)}
    shard = load_shard(Data(partition="dirichlet"), 0, 2, 5)
    for images, labels in ((shard.train_images, shard.train_labels), (shard.test_images, shard.test_labels)):
        assert [label_of[image.numpy().tobytes()] for image in images] == labels.tolist()


@pytest.mark.parametrize("fraction", [0.01, 0.25, 0.5, 0.9])
def test_every_class_is_held_out_in_proportion(fraction: float) -> None:
    shard = load_shard(Data(test_fraction=fraction), 0, 1, 4)
    train, test = np.array(shard.counts()), np.bincount(shard.test_labels, minlength=10)
    assert abs(test.sum() - fraction * 449) <= 0.5
    assert np.abs(test - fraction * (train + test)).max() < 1


@pytest.mark.parametrize("fraction", [0.01, 0.9])
def test_the_smallest_clients_train_and_test(fraction: float) -> None:
    data = Data(partition="iid", test_fraction=fraction)
    for i in (0, 500, 897):
        shard = load_shard(data, 0, i, 898)
        assert len(shard.train_labels) >= 1 and len(shard.test_labels) >= 1


def test_max_examples_is_a_proportional_subset_and_leaves_the_test_alone() -> None:
    whole, part = load_shard(Data(), 3, 2, 4), load_shard(Data(max_examples=50), 3, 2, 4)
    assert part.counts() == [5] * 10
    assert prints(part, "train") <= prints(whole, "train")
    assert torch.equal(part.test_images, whole.test_images)
    assert load_shard(Data(max_examples=10_000), 3, 2, 4).counts() == whole.counts()
    assert prints(load_shard(Data(max_examples=50), 4, 2, 4), "train") != prints(part, "train")


def test_pooled_is_the_union_in_the_order_of_the_partitions() -> None:
    data = Data(partition="dirichlet", max_examples=100)
    shards = [load_shard(data, 0, i, 5) for i in range(5)]
    pooled = load_pooled(data, 0, 5)
    for field in ("train_images", "train_labels", "test_images", "test_labels"):
        assert torch.equal(getattr(pooled, field), torch.cat([getattr(shard, field) for shard in shards]))
    assert pooled.classes == shards[0].classes


def test_clients_when_nothing_is_said() -> None:
    counts = {kind: default_clients(Data(partition=kind)) for kind in ("domain", "natural", "iid", "dirichlet", "pathological")}
    assert counts == {"domain": 4, "natural": 4, "iid": 10, "dirichlet": 10, "pathological": 10}


@pytest.mark.parametrize("partition", [-1, 4, 99])
def test_a_client_that_is_not_there_is_refused(partition: int) -> None:
    with pytest.raises(SettingError, match=f"no partition {partition}; 4 clients have the partitions 0 to 3"):
        load_shard(Data(), 0, partition, 4)


def test_the_set_is_kept_once_and_shards_are_copies() -> None:
    data = Data(partition="iid")
    made.cache_clear()
    shards = [load_shard(data, 11, i, 100) for i in range(100)]
    assert (made.cache_info().currsize, made.cache_info().misses) == (1, 1)
    assert open_table(data) is open_table(replace(data, max_examples=5, partition="domain"))
    before = load_shard(data, 11, 0, 100).train_images
    shards[0].train_images.zero_()
    shards[0].train_labels.zero_()
    assert torch.equal(load_shard(data, 11, 0, 100).train_images, before) and before.any()
    assert len(set(load_shard(data, 11, 0, 100).train_labels.tolist())) > 1


@given(
    labels=st.lists(st.integers(0, 6), min_size=1, max_size=40).map(np.array),
    share=st.floats(0, 1),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=60)
def test_a_draw_takes_exactly_its_number_and_spares_each_class(labels: np.ndarray, share: float, seed: int) -> None:
    take = int(share * len(labels))
    taken = draw(labels, take, np.random.default_rng(seed))
    assert taken.sum() == take
    classes = np.unique(labels)
    left = np.array([(labels[~taken] == c).sum() for c in classes])
    assert (left == 0).sum() <= max(0, len(classes) - (len(labels) - take))
    lost = np.array([(labels[taken] == c).sum() for c in classes])
    fair = take * np.array([(labels == c).sum() for c in classes]) / len(labels)
    assert (lost >= np.floor(fair)).all()


def test_no_image_is_always_the_one_held_out() -> None:
    labels = np.repeat(np.arange(3), 8)
    often = np.sum([draw(labels, 6, np.random.default_rng(seed)) for seed in range(200)], axis=0)
    assert often.min() > 25 and often.max() < 75


@pytest.mark.parametrize(("n", "held"), [(0, 0), (1, 0), (2, 1), (3, 1)])
def test_a_client_of_hardly_any_images_keeps_one_to_train_on(n: int, held: int) -> None:
    train, test = split(Data(), np.zeros(9, dtype=np.int64), np.arange(n), 0, 0)
    assert (len(train), len(test)) == (n - held, held)
