"""Labels as they stand in tables: missing ones, floats, names of any kind."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Value

from fedwarm.data import load_pooled
from fedwarm.data.labels import ids, labelled
from fedwarm.data.shards import open_table
from fedwarm.settings.fields import SettingError
from tests.fedwarm.data.conftest import MakePictures
from tests.fedwarm.data.test_pictures import saved

NAN = float("nan")


def table(values: list[Any], names: list[str] | None = None) -> Dataset:
    return Dataset.from_dict({"y": values}, features=None if names is None else Features({"y": ClassLabel(names=names)}))


@pytest.mark.parametrize(
    ("values", "names", "message"),
    [
        ([None] * 3 + [1, 0] * 3, None, r"set: label missing in 3 rows, first row 0 \(null in column 'y'\); set data.missing-l"),
        ([1, 0, -1, 2, -1], None, r"label missing in 2 rows, first row 2 \(-1 in .*them out, or 'keep' if -1 is a class"),
        ([1, -1], ["a", "b"], r"label missing in 1 row, first row 1 \(-1 in column 'y'\); .*to leave them out$"),
        ([0.0, 1.0, NAN], None, r"label missing in 1 row, first row 2 \(null"),
        ([0.0, None, 1.0], None, r"label missing in 1 row, first row 1 \(null"),
        (["a", "", " \t", "b"], None, r"label missing in 2 rows, first row 1 \(an empty text"),
        ([True, None, False], None, r"label missing in 1 row, first row 1"),
        ([None, None], None, r"label missing in 2 rows, first row 0"),
        ([1.0, 1.5, 2.0], None, "column 'y' of set holds 1.5 in row 1; labels and ids must be text or whole numbers"),
        ([1.0, float("inf")], None, "column 'y' of set holds inf in row 1"),
    ],
)  # fmt: skip
def test_labels_that_are_none_are_refused_by_row(values: list[Any], names: list[str] | None, message: str) -> None:
    with pytest.raises(SettingError, match=message) as refused:
        labelled(table(values, names), "y", "set", "refuse")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("values", "names", "expected", "codes", "rows"),
    [
        ([None, 1, 0, None, 1], None, ("0", "1"), [1, 0, 1], [1, 2, 4]),
        ([1, 0, -1, 2, -1], None, ("0", "1", "2"), [1, 0, 2], [0, 1, 3]),
        ([1, -1, 0], ["a", "b"], ("a", "b"), [1, 0], [0, 2]),
        ([0.0, NAN, 3.0, None], None, ("0", "3"), [0, 1], [0, 2]),
        (["b", "", "a"], None, ("a", "b"), [1, 0], [0, 2]),
    ],
)
def test_rows_without_a_label_are_left_out_on_request(
    values: list[Any], names: list[str] | None, expected: tuple[str, ...], codes: list[int], rows: list[int]
) -> None:
    column, kept = labelled(table(values, names), "y", "set", "drop")
    assert (column.names, column.codes.tolist(), kept.tolist()) == (expected, codes, rows)


def test_whole_numbers_as_floats_are_whole_numbers() -> None:
    column, _ = labelled(table([2.0, 10.0, 1.0, 2.0]), "y", "set", "refuse")
    assert column.names == ("1", "2", "10") and column.codes.tolist() == [1, 2, 0, 1]
    writers = ids(table([2.0, 10.0, 1.0, 2.0]), "y", "set")
    assert writers.names == column.names


@pytest.mark.parametrize(
    ("values", "missing", "expected"),
    [
        ([7, 30, -1, -2], "refuse", ("-2", "-1", "7", "30")),
        ([-1, -1], "refuse", ("-1",)),
        ([-1, 1, 1, -1], "keep", ("-1", "1")),
        ([-1, 0, 1], "keep", ("-1", "0", "1")),
        (["-1", "1"], "refuse", ("-1", "1")),
    ],
)
def test_minus_one_is_a_class_among_negatives_or_on_request(values: list[Any], missing: str, expected: tuple[str, ...]) -> None:
    assert labelled(table(values), "y", "set", missing)[0].names == expected


def test_keep_keeps_no_null() -> None:
    with pytest.raises(SettingError, match="label missing in 1 row, first row 1"):
        labelled(table([-1, None, 1]), "y", "set", "keep")


def test_a_class_without_a_name_is_refused() -> None:
    numbers = table([0, 1, 5, 1]).to_dict()
    broken = Dataset.from_dict(numbers, features=Features({"y": Value("int64")}))
    broken.info.features = Features({"y": ClassLabel(names=["a", "b"])})
    with pytest.raises(SettingError, match="holds class 5 in row 2, but names 2 classes"):
        labelled(broken, "y", "set", "refuse")


def test_nothing_but_missing_labels_is_refused() -> None:
    with pytest.raises(SettingError, match="no row has a label in column 'y'; set data.label-column"):
        labelled(table([None, None]), "y", "set", "drop")


@pytest.mark.parametrize("name", ["[red]", "a\nb", "", "a\0", "ünï", "x" * 3000, "{0}", "%s", "'", '"', "a, b"])
def test_a_name_may_be_any_text(name: str) -> None:
    names = labelled(table([name or "plain", "a", "other"]), "y", "set", "refuse")[0].names
    assert set(names) == {name or "plain", "a", "other"}


def test_what_is_left_out_is_left_out_everywhere(pictures_of: MakePictures) -> None:
    from PIL import Image

    files = [saved(Image.new("L", (8, 8), 20 * i)) for i in range(8)]
    data = pictures_of(files, [None, 0, 1, 0, None, 1, 0, 1], missing_labels="drop")
    whole = open_table(data)
    assert len(whole) == 6 and whole.remarks() == ["rows without a label left out: 2"]
    assert whole.images(np.arange(6))[:, 0, 0, 0].tolist() == [20, 40, 60, 100, 120, 140]
    shard = load_pooled(data, 0, 2)
    shades = {20: 0, 40: 1, 60: 0, 100: 1, 120: 0, 140: 1}
    for image, label in zip(shard.train_images, shard.train_labels, strict=True):
        assert shades[int(image[0, 0, 0])] == int(label)
