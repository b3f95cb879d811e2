"""The data set's own test split: dealt like the training images, kept at the server, or refused with the reason."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch

from fedwarm.data import Shard, load_pooled, load_shard, partition_table
from fedwarm.data.settings import Data
from fedwarm.data.shards import all_tests, count_tests, open_table
from fedwarm.data.testing import split_table
from fedwarm.settings.fields import SettingError
from tests.sets import write_split

CLIENTS, CLASSES = 5, 3


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Data:
    """60 training and 45 test images of three classes and six ids, of which the last is in the test split alone."""
    place = tmp_path_factory.mktemp("sets")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", place / "cache")
        folder = place / "set"
        write_split(folder, "train", [i % CLASSES for i in range(60)], writer_id=[f"w{i * 7 % 5}" for i in range(60)])
        write_split(folder, "test", [i * i % CLASSES for i in range(45)], 1000, writer_id=[f"w{i % 2 or 5}" for i in range(45)])
        data = Data(name=str(folder), partition="iid", image_size=8, test="split")
        split_table(data, open_table(data))
    return data


def shards(data: Data, seed: int = 1) -> list[Shard]:
    return [load_shard(data, seed, k, CLIENTS) for k in range(CLIENTS)]


def prints(images: torch.Tensor) -> Counter[bytes]:
    return Counter(image.numpy().tobytes() for image in images)


@pytest.mark.parametrize("kind", ["iid", "dirichlet", "pathological"])
def test_each_test_image_goes_to_one_client(whole: Data, kind: str) -> None:
    data = replace(whole, partition=kind, classes_per_client=2)
    table = split_table(data, open_table(data))
    held = shards(data)
    together = sum((prints(shard.test_images) for shard in held), Counter())
    classes = {c for shard in held for c, n in enumerate(shard.counts()) if n}
    wanted = np.flatnonzero(np.isin(table.label.codes, list(classes)))
    assert together == prints(table.images(wanted)) and len(classes) == CLASSES
    assert count_tests(data, 1, CLIENTS) == [len(shard.test_labels) for shard in held]
    assert torch.equal(load_pooled(data, 1, CLIENTS).test_images, torch.cat([shard.test_images for shard in held]))


@pytest.mark.parametrize("kind", ["dirichlet", "pathological"])
def test_a_client_is_tested_on_the_classes_that_it_trains_on(whole: Data, kind: str) -> None:
    """Of each class the share of test images that it has of the training images, to the nearest image but one."""
    data = replace(whole, partition=kind, classes_per_client=2)
    own = np.array([shard.counts() for shard in shards(data)])
    got = np.array([torch.bincount(shard.test_labels, minlength=CLASSES).tolist() for shard in shards(data)])
    exact = own / own.sum(0) * np.bincount(split_table(data, open_table(data)).label.codes, minlength=CLASSES)
    assert np.abs(got - exact).max() <= 1 and not got[own == 0].any()


def test_equal_parts_have_equal_parts(whole: Data) -> None:
    assert count_tests(whole, 1, CLIENTS) == [9] * CLIENTS
    assert sorted(count_tests(whole, 1, 4)) == [11, 11, 11, 12]
    first, other = load_shard(whole, 1, 0, CLIENTS), load_shard(whole, 2, 0, CLIENTS)
    assert prints(first.test_images) != prints(other.test_images)


def test_ids_keep_their_own(whole: Data) -> None:
    """Writers 0 to 4 are clients; the test split knows w1 and w5 alone, and nobody is w5."""
    data = replace(whole, partition="natural")
    assert count_tests(data, 0, CLIENTS) == [0, 22, 0, 0, 0]
    assert load_shard(data, 0, 0, CLIENTS).test_images.shape == (0, 3, 8, 8)


@pytest.mark.parametrize("test", ["split", "central"])
def test_clients_train_on_all_that_they_hold(whole: Data, test: str) -> None:
    for kind in ("iid", "dirichlet", "natural"):
        held_out = load_pooled(replace(whole, partition=kind, test="held-out"), 1, CLIENTS)
        own = load_pooled(replace(whole, partition=kind, test=test), 1, CLIENTS)
        assert prints(own.train_images) == prints(torch.cat([held_out.train_images, held_out.test_images]))
    few = partition_table(replace(whole, test=test, max_examples=6), 1, CLIENTS)
    assert [sum(row) for row in few] == [6] * CLIENTS


def test_the_server_keeps_the_whole_split(whole: Data) -> None:
    data = replace(whole, test="central")
    table, rows = all_tests(data, 1, CLIENTS)
    assert len(rows) == 45 and prints(table.images(rows)) == prints(split_table(data, open_table(data)).images(np.arange(45)))
    assert count_tests(data, 1, CLIENTS) == [0] * CLIENTS
    assert all(not len(shard.test_labels) for shard in shards(data))


def test_labels_are_numbered_like_those_of_the_training_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Labels are text here, and the test split lacks the first of them."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    write_split(tmp_path / "set", "train", ["ant", "bee", "cat"] * 4)
    write_split(tmp_path / "set", "test", ["cat", "bee", "bee"])
    data = Data(name=str(tmp_path / "set"), partition="iid", image_size=8, test="central")
    table, rows = all_tests(data, 0, 2)
    assert table.label.names == ("ant", "bee", "cat") and table.label.codes[rows].tolist() == [2, 1, 1]


def test_a_class_that_nobody_trains_on_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    write_split(tmp_path / "set", "train", [0, 1] * 4)
    write_split(tmp_path / "set", "valid", [0, 1, 2, 2])
    data = Data(name=str(tmp_path / "set"), partition="iid", image_size=8, test="split", test_split="validation")
    with pytest.raises(SettingError, match=r"split 'validation' of .* has 2 images of classes .* lacks, the first of them '2'"):
        load_shard(data, 0, 0, 2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "digits"}, "`digits` has none; take data.test = 'held-out', or another data set"),
        ({"test_split": "train"}, "data.test-split = 'train' is what clients train on"),
        ({"test_split": "tests"}, r"has no split 'tests', only train, test; name one of test in data.test-split, or"),
        ({"partition": "natural", "partition_by": "label"}, ""),
    ],
)
def test_a_split_that_is_not_there_is_refused(whole: Data, changes: dict[str, str], message: str) -> None:
    data = replace(whole, **changes)
    if not message:
        assert sum(count_tests(data, 0, CLASSES)) == 45
        return
    with pytest.raises(SettingError, match=message) as refused:
        load_shard(data, 0, 0, CLIENTS)
    assert "\n" not in str(refused.value)


def test_ids_that_are_all_others_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    write_split(tmp_path / "set", "train", [0, 1] * 4, writer_id=["a", "a", "b", "b"] * 2)
    write_split(tmp_path / "set", "test", [0, 1], writer_id=["c", "d"])
    data = Data(name=str(tmp_path / "set"), partition="natural", image_size=8, test="split")
    with pytest.raises(SettingError, match="nothing in split 'test' of .* belongs to a client.*set data.test = 'central' or"):
        load_shard(data, 0, 0, 2)
