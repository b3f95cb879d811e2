"""Tables of numbers in CSV and parquet files: columns, targets, gaps, scaling, sites; and where broken ones are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch

from fedwarm.data.opening import read_table
from fedwarm.data.partitions import client_rows
from fedwarm.data.settings import Data
from fedwarm.data.shards import central_tests, default_clients, load_pooled, load_shard
from fedwarm.data.tables import Table
from fedwarm.settings.fields import SettingError

HOUSES = "rooms,area,colour,price\n" + "".join(
    f"{i % 5 + 1},{40 + 3 * i},{'red' if i % 3 else 'blue'},{100 + 7 * i}\n" for i in range(24)
)


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def table(path: Path, targets: str = "numbers", label_column: str = "price", **settings: Any) -> Table:
    return read_table(Data(name=str(path), targets=targets, label_column=label_column, **settings))


def test_columns_of_numbers_are_inputs_and_text_is_left_out(tmp_path: Path) -> None:
    found = table(write(tmp_path / "houses.csv", HOUSES))
    assert found.features == ("rooms", "area") and found.form_at(0).shape == (2,) and len(found) == 24
    assert found.images(np.array([2])).tolist() == [[3.0, 46.0]] and found.answers(np.array([2])).tolist() == [114.0]
    assert found.remarks() == ["columns of text are no inputs: colour"] and found.column("colour").names == ("blue", "red")
    assert len(client_rows(found, Data(), 0, 3)) == 3  # without a column of domains, all are one


@pytest.mark.parametrize("separator", [";", "\t"])
def test_separators_and_lines_without_anything_do_not_matter(tmp_path: Path, separator: str) -> None:
    text = "\n" + HOUSES.replace(",", separator).replace("\n", "\n\n", 5)
    first, second = table(write(tmp_path / "a.csv", HOUSES)), table(write(tmp_path / "b.csv", text.removeprefix("\n")))
    rows = np.arange(24)
    assert torch.equal(first.images(rows), second.images(rows)) and torch.equal(first.answers(rows), second.answers(rows))


def test_a_task_of_classes_reads_the_same_column_as_classes(tmp_path: Path) -> None:
    path = write(tmp_path / "houses.csv", HOUSES)
    assert table(path, "classes", "colour").label.names == ("blue", "red")
    found = table(path, "classes", "rooms")
    assert found.label.names == ("1", "2", "3", "4", "5") and found.features == ("area", "price")


def test_several_targets_and_chosen_inputs(tmp_path: Path) -> None:
    path = write(tmp_path / "houses.csv", HOUSES)
    both = table(path, label_column="price, area", feature_columns="rooms")
    assert both.answers(np.array([1])).tolist() == [[107.0, 43.0]] and both.label.names == ("price", "area")
    bits = write(tmp_path / "bits.csv", "x,a,b\n" + "1,0,1\n2,1,1\n" * 4)
    assert table(bits, "labels", "a,b").answers(np.array([1])).tolist() == [[1.0, 1.0]]
    assert table(bits, "labels", "a").answers(np.array([0])).shape == (1, 1)


def test_parquet_is_read_alike(tmp_path: Path) -> None:
    frame = pandas.read_csv(write(tmp_path / "houses.csv", HOUSES))
    frame.to_parquet(tmp_path / "houses.parquet")
    (tmp_path / "folder").mkdir()
    frame.to_parquet(tmp_path / "folder" / "train.parquet")
    rows, first = np.arange(24), table(tmp_path / "houses.csv")
    for path in (tmp_path / "houses.parquet", tmp_path / "folder"):
        found = table(path)
        assert torch.equal(found.images(rows), first.images(rows)) and found.features == first.features


def test_a_file_a_site(tmp_path: Path) -> None:
    for site, start in (("north", 0), ("south", 8)):
        write(tmp_path / "set" / f"{site}.csv", "x,y\n" + "".join(f"{start + i},{i % 2}\n" for i in range(8)))
    write(tmp_path / "set" / "test.csv", "x,y,site\n0.5,1,south\n0.25,0,north\n")
    data = Data(name=str(tmp_path / "set"), label_column="y", standardise="none")
    assert read_table(data).column("site").names == ("north", "south") and default_clients(data) == 2
    shard = load_shard(data, 0, 1, 2)
    assert sorted(torch.cat([shard.train_images, shard.test_images])[:, 0].tolist()) == [8.0 + i for i in range(8)]
    dealt = load_shard(Data(name=data.name, label_column="y", test="split", standardise="none"), 0, 0, 2)
    assert dealt.test_images.tolist() == [[0.25]] and len(dealt.train_labels) == 8
    write(tmp_path / "set" / "west.csv", "x,z\n1,1\n")
    with pytest.raises(SettingError, match=r"west.csv and north.csv differ in column 'y'; give all files the same columns"):
        read_table(data)


def test_columns_are_standardised_by_the_training_examples_of_all_clients(tmp_path: Path) -> None:
    data = Data(name=str(write(tmp_path / "houses.csv", HOUSES)), label_column="price", targets="numbers")
    seen, plain = (load_pooled(Data(**{**vars(data), "standardise": how}), 0, 3) for how in ("auto", "none"))
    raw = plain.train_images.double()
    mean, spread = raw.mean(0), raw.std(0, correction=0)
    torch.testing.assert_close(seen.train_images, ((raw - mean) / spread).float())
    torch.testing.assert_close(seen.test_images, ((plain.test_images - mean) / spread).float())
    assert seen.fitted and not plain.fitted
    parts = [load_shard(data, 0, k, 3) for k in range(3)]
    assert torch.equal(torch.cat([part.train_images for part in parts]), seen.train_images)


def test_statistics_may_be_given(tmp_path: Path) -> None:
    path = write(tmp_path / "houses.csv", HOUSES)
    told = write(tmp_path / "known.csv", "column,mean,std\narea,40,2\nrooms,1,4\n")
    shard = load_pooled(Data(name=str(path), label_column="price", targets="numbers", standardise=str(told)), 0, 2)
    plain = load_pooled(Data(name=str(path), label_column="price", targets="numbers", standardise="none"), 0, 2)
    torch.testing.assert_close(shard.train_images, (plain.train_images - torch.tensor([1.0, 40.0])) / torch.tensor([4.0, 2.0]))
    assert not shard.fitted
    for text, said in (
        ("column,mean,std\narea,40,2\n", "has no line of column 'rooms'; add it"),
        ("column,mean,std\narea,40,0\nrooms,1,1\n", "correct it"),
        ("name,mean\na,1\n", "cannot be read"),
    ):
        write(told, text)
        with pytest.raises(SettingError, match=said):
            load_pooled(Data(name=str(path), label_column="price", targets="numbers", standardise=str(told)), 1, 2)


GAPS = HOUSES.replace("\n2,43,", "\n2,,", 1)  # the second row, in line 3


def test_missing_values_are_refused_dropped_or_filled(tmp_path: Path) -> None:
    path = write(tmp_path / "houses.csv", GAPS)
    with pytest.raises(
        SettingError, match=r"1 values are missing, first houses.csv, line 3, column 'area'; fill them in, or set data"
    ):
        table(path)
    dropped = table(path, missing_values="drop")
    assert len(dropped) == 23 and dropped.remarks()[0] == "rows left out for missing values: 1"
    data = Data(name=str(path), label_column="price", targets="numbers", missing_values="mean")
    shard = load_pooled(data, 0, 2)
    assert len(shard.train_labels) + len(shard.test_labels) == 24
    assert shard.train_images.isfinite().all() and shard.test_images.isfinite().all()
    for standardise in ("none", "auto"):
        whole = load_pooled(Data(**{**vars(data), "standardise": standardise, "test_fraction": 0.05}), 0, 1)
        images = torch.cat([whole.train_images, whole.test_images])
        gap = images[torch.cat([whole.train_labels, whole.test_labels]) == 107.0][0, 1]
        known = whole.train_images[whole.train_labels != 107.0][:, 1]
        torch.testing.assert_close(gap, known.mean() if standardise == "none" else torch.tensor(0.0), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("text", "settings", "said"),
    [
        (
            HOUSES.replace("3,46,", "3,4G,", 1),
            {},
            r"houses.csv, line 4, column 'area' holds '4G', which is not a number; correct it",
        ),
        (HOUSES.replace("3,46,", "3,inf,", 1), {}, r"houses.csv, line 4, column 'area' is infinite"),
        (
            HOUSES.replace(",114\n", ",\n", 1),
            {},
            r"target missing in 1 rows, first houses.csv, line 4, column 'price'; fill it in",
        ),
        (HOUSES.replace("3,46,", "3,46,9,", 1), {}, r"houses.csv cannot be read: .* line 4.*; save it in UTF-8"),
        (
            HOUSES,
            {"label_column": "prise"},
            r"'prise' is no column of .*houses.csv \(did you mean price\?\); it has rooms, area",
        ),
        (
            HOUSES,
            {"label_column": ""},
            "has no label column that is recognised by its name; it has rooms, area, colour, price; set",
        ),
        (HOUSES, {"feature_columns": "rooms,coluor"}, r"data.feature-columns: 'coluor' is no column of"),
        (
            HOUSES,
            {"feature_columns": "rooms,colour"},
            r"line 2, column 'colour' holds 'blue', which is not a number",
        ),
        (HOUSES, {"feature_columns": "price"}, "'price' is the target of .* and cannot be an input"),
        (HOUSES, {"background": "black"}, "data.background = 'black' is about pictures, and .* holds none; leave it out"),
        (HOUSES, {"targets": "classes", "label_column": "price,area"}, "names several columns; name the one of the classes"),
        (HOUSES, {"targets": "labels"}, r"houses.csv, line 2, column 'price' holds 100; labels are 0 or 1"),
        (HOUSES, {"targets": "tokens"}, "the task wants texts, and .* is a table of numbers"),
        (HOUSES.splitlines()[0], {}, "holds no row"),
    ],
)
def test_what_is_broken_is_told_by_file_line_and_column(tmp_path: Path, text: str, settings: dict[str, Any], said: str) -> None:
    path = write(tmp_path / "houses.csv", text)
    with pytest.raises(SettingError, match=said) as caught:
        table(path, **settings)
    assert len(str(caught.value).splitlines()) == 1


def test_the_server_measures_on_columns_as_clients_see_them(tmp_path: Path) -> None:
    write(tmp_path / "set" / "train.csv", HOUSES)
    write(tmp_path / "set" / "test.csv", HOUSES)
    data = Data(name=str(tmp_path / "set"), label_column="price", targets="numbers", test="central")
    seen, rows = central_tests(data, 0, 2)
    whole = load_pooled(data, 0, 2)
    assert sorted(seen.images(rows)[:, 1].tolist()) == sorted(whole.train_images[:, 1].tolist())
