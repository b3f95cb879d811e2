"""Data as people have them: columns in another order, indices, notes beside tables, files made elsewhere, short texts."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch

from fedwarm.data.opening import read_table
from fedwarm.data.settings import Data
from fedwarm.data.shards import central_tests, default_clients, load_shard, open_table
from fedwarm.settings.fields import SettingError
from tests.fedwarm.data.test_given import X, table
from tests.fedwarm.data.test_own import holding
from tests.sets import picture

ROWS = np.arange(12)


def written(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def numbers(columns: str, count: int, swap: bool = False) -> str:
    """Rows `a,b,label` with b a hundred times a."""
    values = [(i, 100 * i) if not swap else (100 * i, i) for i in range(count)]
    return columns + "\n" + "".join(f"{a},{b},{i % 2}\n" for i, (a, b) in enumerate(values))


@pytest.mark.parametrize("test", ["split", "central"])
def test_a_test_split_has_its_columns_in_the_order_of_training(test: str, tmp_path: Path) -> None:
    written(tmp_path / "train.csv", numbers("a,b,label", 12))
    first, *rest = numbers("b,a,label", 6, swap=True).splitlines()
    written(tmp_path / "test.csv", "\n".join([f"{first},c", *(f"{line},7" for line in rest)]) + "\n")  # and one column more
    data = Data(name=str(tmp_path), partition="iid", test=test, standardise="none")
    shard = load_shard(data, 0, 0, 1)
    if test == "split":
        assert shard.test_images.tolist() == [[i, 100.0 * i] for i in range(6)]
    else:
        seen, rows = central_tests(data, 0, 1)
        assert seen.images(rows).tolist() == [[i, 100.0 * i] for i in range(6)]
    written(tmp_path / "test.csv", numbers("aa,b,label", 6))
    other = Data(name=str(tmp_path), partition="iid", test=test, standardise="none", image_size=8)
    with pytest.raises(SettingError, match=r"has no column 'a' of numbers, which is an input of its training split"):
        load_shard(other, 0, 0, 1) if test == "split" else central_tests(other, 0, 1)


def test_a_site_s_test_split_has_its_columns_in_the_order_of_training(tmp_path: Path) -> None:
    written(tmp_path / "train.csv", numbers("b,a,label", 12, swap=True))
    written(tmp_path / "test.csv", numbers("a,b,label", 6))
    shard = holding(tmp_path, data__test="split", data__standardise="none").shard()
    assert shard.columns == ("a", "b") and shard.test_images.tolist() == [[i, 100.0 * i] for i in range(6)]


def test_rows_with_more_fields_than_names_are_refused(tmp_path: Path) -> None:
    """As R's `write.table` writes them: the column of row names has none."""
    path = written(tmp_path / "r.csv", "area,rooms,label\n" + "".join(f"{i},1{i},2,{i % 2}\n" for i in range(6)))
    with pytest.raises(SettingError, match=r"r\.csv has more fields in its rows than its first line names; name all columns"):
        read_table(Data(name=str(path)))
    path = written(tmp_path / "t.csv", "area,label,\n" + "".join(f"1{i},{i % 2},\n" for i in range(6)))  # harmless
    assert len(read_table(Data(name=str(path), missing_values="mean"))) == 6


def test_an_index_that_was_written_with_a_table_is_no_input(tmp_path: Path) -> None:
    frame = pandas.DataFrame({"noise": np.arange(6) % 3, "index": [0.5] * 6, "label": [0, 0, 0, 1, 1, 1]})
    frame.to_csv(tmp_path / "t.csv")
    found = read_table(Data(name=str(tmp_path / "t.csv")))
    assert found.features == ("noise", "index")  # a column that is only called so is one
    assert found.remarks() == ["columns of row numbers are no inputs: Unnamed: 0"]
    asked = read_table(Data(name=str(tmp_path / "t.csv"), feature_columns="Unnamed: 0,noise"))
    assert asked.features == ("Unnamed: 0", "noise")


def test_each_file_is_a_site_whatever_it_is_called_and_whatever_lies_beside(tmp_path: Path) -> None:
    for site in ("a", "b"):
        written(tmp_path / "set" / site / "data.csv", numbers("x,y,label", 8))
    written(tmp_path / "set" / "notes.txt", "measured in May")
    written(tmp_path / "set" / "dictionary.json", "{}")
    data = Data(name=str(tmp_path / "set"))
    assert read_table(data).column("site").names == ("a/data", "b/data") and default_clients(data) == 2


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        ("x,label\n1,0\n2,1\n", "x,label\n1,no\n2,yes\n", ""),
        ("x,label\n1,0\n2,1\n3,1\n", "x,label\n1,0\nunknown,1\n", r"b\.csv, line 3, column 'x' holds 'unknown'"),
        ("x,label\n123456789012345678901234567,0\n2,1\n", "x,label\n1,0\n2,1\n", ""),
        ("x, x ,label\n1,2,0\n2,3,1\n", "x,label\n1,0\n2,1\n", r"a\.csv has two columns called 'x'; call one otherwise"),
    ],
)
def test_files_of_unlike_kinds_are_joined_or_refused_in_a_line(first: str, second: str, said: str, tmp_path: Path) -> None:
    written(tmp_path / "a.csv", first)
    written(tmp_path / "b.csv", second)
    if said:
        with pytest.raises(SettingError, match=said):
            read_table(Data(name=str(tmp_path)))
    else:
        assert len(read_table(Data(name=str(tmp_path)))) == 4


def test_a_table_that_names_pictures_is_taken_whatever_its_first_row_says(tmp_path: Path) -> None:
    """Of a picture that is gone; with the slashes of another system. None of its files: refused, not passed over."""
    for place in ("one", "two"):
        (tmp_path / place).mkdir()
        for i in range(3):
            (tmp_path / place / f"{i}.png").write_bytes(picture(i % 2, i)["bytes"])
    lines = [f"{place}\\{i}.png,{'ab'[i % 2]}" for place in ("one", "two") for i in range(3)]
    written(tmp_path / "labels.csv", "\n".join(["file,label", "gone.png,a", *lines]))
    found = open_table(Data(name=str(tmp_path), image_size=8, skip_broken=True))
    assert found.label.names == ("a", "b") and len(found) == 6
    written(tmp_path / "labels.csv", "image_id,label\nISIC_0,a\nISIC_1,b\n")
    with pytest.raises(SettingError, match=r"labels\.csv names 'ISIC_0' in column 'image_id', and there is no such file; give"):
        read_table(Data(name=str(tmp_path), image_size=16))


def test_short_texts_are_examples_and_no_text_is_in_training_and_in_testing(tmp_path: Path) -> None:
    """Where texts have classes, each is one example, cut or filled up."""
    frame = pandas.DataFrame({"text": ["ok see you", "win a prize now, win it today"] * 6, "label": ["ham", "spam"] * 6})
    frame.to_csv(tmp_path / "sms.csv", index=False)
    found = read_table(Data(name=str(tmp_path / "sms.csv"), length=16))
    assert len(found) == 12 and np.bincount(found.label.codes).tolist() == [6, 6]
    assert found.images(ROWS)[0].tolist()[10:] == [0] * 6 and (found.images(ROWS)[1] > 0).all()
    assert found.remarks() == ["texts cut to data.length = 16 characters: 6 of 12"]
    next_ones = read_table(Data(name=str(tmp_path / "sms.csv"), length=16, targets="tokens"))
    assert next_ones.remarks() == ["texts of at most data.length = 16 characters left out: 6 of 12"]


def test_an_author_who_wrote_too_little_is_named(tmp_path: Path) -> None:
    written(tmp_path / "ann.txt", "ann wrote a long text for this test " * 3)
    written(tmp_path / "bob.txt", "bob did not")
    with pytest.raises(SettingError, match="no text of 'bob' is longer than data.length = 20 characters; lower it"):
        read_table(Data(name=str(tmp_path), length=20))


@pytest.mark.parametrize(
    ("head", "rows", "said"),
    [
        ("text,label", [",a", "good day,b", "bad day,a"], "column 'text' holds no text"),
        ("content,ph,label", ["1.5,7,0", "2.5,8,1"], ""),  # of numbers: a table
    ],
)
def test_what_is_called_as_a_text_is(head: str, rows: list[str], said: str, tmp_path: Path) -> None:
    data = Data(name=str(written(tmp_path / "t.csv", "\n".join([head, *rows]) + "\n")), length=4)
    if said:
        with pytest.raises(SettingError, match=said):
            read_table(data)
    else:
        assert read_table(data).features == ("content", "ph")


@pytest.mark.parametrize(
    ("found", "targets", "said"),
    [
        ((X, np.where(np.arange(12) == 4, -1, 1)[:, None]), "labels", "hold -1 in row 4; labels are 0 or 1"),
        ((X, ["a", None] * 6), "classes", "the targets of mine:load hold none in row 1"),
        ((X, ["a", float("nan")] * 6), "classes", "the targets of mine:load hold none in row 1"),
        ((X, [0, 1] * 6, {"site": ["a", None] * 6}), "classes", "column 'site' of mine:load hold none in row 1"),
        ((X, [[0], [1, 2]] * 6), "numbers", "the targets of mine:load are no array: .*; give values of one shape"),
        ({"inputs": X, "targets": ["a", "b"] * 6, "classes": ["a", "c"]}, "classes", "gives class 'b', which its `classes` lack"),
    ],
)
def test_a_function_s_targets_and_columns_are_looked_at(found: Any, targets: str, said: str) -> None:
    with pytest.raises(SettingError, match=said):
        table(found, targets)


SECRET = "john_smith"


@pytest.mark.parametrize(
    "files",
    [
        {f"{SECRET}_0.png": b"", f"{SECRET}_1.png": b""},
        {f"{SECRET}.png": b"", f"a/{SECRET}_0.png": b""},
        {f"{SECRET}.csv": b"x,label\n1,0.37\n2,1\n"},
        {f"{SECRET}.csv": b"\xff\xfe\xfa"},
        {f"{SECRET}.csv": b"x,label\n1,0\n", f"{SECRET}_2.csv": b"y,label\n1,0\n"},
        {f"{SECRET}.csv": b"x,label\n1,2,0\n"},
        {"labels.csv": f"file,label\n{SECRET}.png,a\n".encode(), "in/0.png": b""},
        {f"{SECRET}.csv": b"file,label\nin/0.png,a,b\n", "in/0.png": b""},
        {f"{SECRET}.txt": b"\xff\xfe\xfa"},
    ],
)
def test_refusals_of_a_site_s_data_name_no_file_and_no_value(
    files: dict[str, bytes], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """They travel to the server; the node's own log names what is wrong."""
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content or picture(0, 0)["bytes"])
    with pytest.raises(SettingError) as refused:
        holding(tmp_path).shard()
    told = str(refused.value)
    assert SECRET not in told and "0.37" not in told and "\n" not in told
    assert SECRET in caplog.text or "0.37" in caplog.text


def test_labels_of_a_site_are_not_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    written(tmp_path / "t.csv", "a,label\n1,7.25\n2,0\n")
    with pytest.raises(SettingError, match=r"line 2, column 'label' holds another number; labels are 0 or 1"):
        holding(tmp_path, task="multilabel").shard()
    assert "7.25" in caplog.text


def test_rows_of_parquet_are_told_by_their_place(tmp_path: Path) -> None:
    frame = pandas.DataFrame({"a": [1.0, np.nan], "label": [0, 1]}, index=["Patient-3", "Patient-7"])
    frame.to_parquet(tmp_path / "t.parquet")
    with pytest.raises(SettingError, match=r"t\.parquet, row 1, column 'a'"):
        read_table(Data(name=str(tmp_path / "t.parquet")))
    dropped = read_table(Data(name=str(tmp_path / "t.parquet"), missing_values="drop"))
    assert torch.equal(dropped.images(np.array([0])), torch.tensor([[1.0]]))


def test_a_folder_that_may_not_be_listed_is_no_missing_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("apple", "pear", "plum"):
        (tmp_path / name).mkdir()
        for i in range(4):
            (tmp_path / name / f"{i}.png").write_bytes(picture(0, i)["bytes"])
    true = os.scandir

    def scandir(path: Any) -> Any:
        if str(path).endswith("apple"):
            raise PermissionError(13, "Permission denied", str(path))
        return true(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(SettingError, match=r"apple cannot be read \(Permission denied\); let the user who runs this read it"):
        read_table(Data(name=str(tmp_path), image_size=8))
