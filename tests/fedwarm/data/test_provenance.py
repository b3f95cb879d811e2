"""What a source of training images is: told and read, found again in a copy, and how many of a run's test images it holds."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pytest

from fedwarm.data import load_pooled
from fedwarm.data.provenance import PUBLIC, TRAIN, WHOLE, Marks, Source, labels_mark, marks, seen, source_of
from fedwarm.data.settings import Data
from fedwarm.data.shards import open_table
from fedwarm.data.tables import public_rows
from fedwarm.diffusion.pretraining.captions import refuse_seen
from fedwarm.settings.fields import SettingError
from tests.sets import write_split


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Data:
    """40 training and 12 test images of two classes, the latter a data set of its own, too."""
    place = tmp_path_factory.mktemp("sets")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", place / "cache")
        write_split(place / "set", "train", [i % 2 for i in range(40)])
        write_split(place / "set", "test", [i * i % 3 % 2 for i in range(12)], 500)
        write_split(place / "other", "train", [i % 2 for i in range(40)], 900)
        shutil.copytree(place / "set", place / "copy")
        (place / "copy" / "test.parquet").rename(place / "only.parquet")
        (place / "tests").mkdir()
        shutil.copy(place / "only.parquet", place / "tests" / "train.parquet")
        data = Data(name=str(place / "set"), partition="iid", image_size=8)
        for name in ("set", "other", "copy", "tests"):
            open_table(replace(data, name=str(place / name)))
    return data


def beside(data: Data, name: str) -> Data:
    return replace(data, name=str(Path(data.name).with_name(name)))


def both(data: Data, mine: tuple[int, int], theirs: tuple[int, int]) -> int:
    """Images that one run (seed, clients) trains on and another tests on, by the pictures themselves."""
    train = {image.numpy().tobytes() for image in load_pooled(data, *mine).train_images}
    return sum(image.numpy().tobytes() in train for image in load_pooled(data, *theirs).test_images)


def test_a_source_is_told_and_read(whole: Data) -> None:
    source = source_of(TRAIN, replace(whole, alpha=0.25), 3, 4)
    told = json.loads(json.dumps(source.told()))
    assert Source.read(told) == source and told["data"]["data.alpha"] == 0.25
    assert told["data"]["data.name"] == "set", "where it lies is nobody's business"
    del told["data"]["data.alpha"]
    assert Source.read({**told, "data": {**told["data"], "data.of-later": 1}}).data.alpha == Data().alpha


@pytest.mark.parametrize("theirs", [(1, 4), (2, 4), (1, 5)])
def test_seen_counts_the_pictures_that_both_hold(whole: Data, theirs: tuple[int, int]) -> None:
    expected = both(whole, (1, 4), theirs)
    assert seen(source_of(TRAIN, whole, 1, 4), whole, *theirs) == expected
    assert (expected == 0) == (theirs == (1, 4))


def test_settings_of_the_dealing_count(whole: Data) -> None:
    fewer = replace(whole, test_fraction=0.5)
    source = source_of(TRAIN, whole, 1, 4)
    train = {image.numpy().tobytes() for image in load_pooled(whole, 1, 4).train_images}
    expected = sum(image.numpy().tobytes() in train for image in load_pooled(fewer, 1, 4).test_images)
    assert seen(source, fewer, 1, 4) == expected > 0


def test_a_copy_under_another_name_is_known_again(whole: Data) -> None:
    assert seen(source_of(TRAIN, beside(whole, "copy"), 1, 4), whole, 2, 4) == both(whole, (1, 4), (2, 4)) > 0


def test_other_pictures_with_the_same_labels_are_another_set(whole: Data) -> None:
    other = beside(whole, "other")
    assert labels_mark(open_table(other)) == labels_mark(open_table(whole))
    assert seen(source_of(TRAIN, other, 1, 4), whole, 2, 4) == 0
    unlike = replace(other, image_size=12)
    assert seen(source_of(TRAIN, unlike, 1, 4), whole, 2, 4) > 0, "pictures made otherwise are not compared; labels decide"


def test_what_is_tested_on_elsewhere_is_found_where_it_was_trained_on(whole: Data) -> None:
    source, split = source_of(TRAIN, beside(whole, "tests"), 1, 2), replace(whole, test="split")
    held_out = len(load_pooled(beside(whole, "tests"), 1, 2).test_labels)
    assert seen(source, split, 7, 3) == 12 - held_out
    assert seen(source_of(WHOLE, beside(whole, "tests")), replace(whole, test="central"), 7, 3) == 12
    assert seen(source_of(TRAIN, whole, 1, 4), split, 2, 4) == 0, "no run trains on the split"


def test_a_foundation_of_what_is_tested_on_is_refused(whole: Data, tmp_path: Path) -> None:
    mark = labels_mark(open_table(beside(whole, "tests")))
    (tmp_path / "recipe.json").write_text(json.dumps({"data": {"public_share": 0.5, "labels_sha256": mark}}))
    refuse_seen(tmp_path, whole)
    for test in ("split", "central"):
        with pytest.raises(SettingError, match="has seen 0.5 of what this run tests on, split 'test' of"):
            refuse_seen(tmp_path, replace(whole, test=test, public_share=0.6))


def test_the_public_part_is_seen_where_clients_hold_it(whole: Data) -> None:
    source = source_of(PUBLIC, replace(whole, public_share=0.5))
    assert len(source.rows(open_table(whole))) == len(public_rows(open_table(whole), 0.5)) == 20
    assert seen(source, whole, 1, 4) > 0 == seen(source, replace(whole, public_share=0.5), 1, 4)


def test_without_marks_the_name_decides(whole: Data) -> None:
    source = replace(source_of(TRAIN, whole, 1, 4), marks=Marks())
    assert seen(source, whole, 2, 4) > 0
    assert seen(replace(source, data=replace(source.data, name="another")), whole, 2, 4) == 0


def test_a_hub_name_is_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedwarm.data.hub.read", lambda *_: pytest.fail("the network was asked"))
    assert marks(Data(name="somebody/something")) is None
    assert source_of(TRAIN, Data(name="somebody/something")).marks == Marks()


def test_digits_are_known_by_labels_without_a_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = open_table(Data())
    monkeypatch.setattr("fedwarm.data.sets.digits.draw", lambda *_: pytest.fail("pictures were drawn"))
    assert marks(Data(image_size=9)) == Marks(labels_mark(drawn))
    assert np.array_equal(source_of(WHOLE, Data()).rows(drawn), np.arange(1797))
