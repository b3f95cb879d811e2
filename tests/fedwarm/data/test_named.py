"""Folders in which a CSV file names the pictures."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedwarm.data import load_pooled, load_shard
from fedwarm.data.settings import Data
from fedwarm.data.shards import open_table
from fedwarm.settings.fields import SettingError
from tests.sets import picture

KINDS = {"commas": ",", "semicolons": ";", "tabs": "\t"}


def written(folder: Path, lines: list[str], name: str = "labels.csv", pictures: int = 6) -> Data:
    """Pictures `in/0.png`, .. of the shades 0 and 1 in turn, and a CSV file beside them."""
    (folder / "in").mkdir(parents=True, exist_ok=True)
    for i in range(pictures):
        (folder / "in" / f"{i}.png").write_bytes(picture(i % 2, i)["bytes"])
    (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return Data(name=str(folder), partition="iid", image_size=8)


def rows(labels: list[str], separator: str = ",") -> list[str]:
    return [f"in/{i}.png{separator}{label}" for i, label in enumerate(labels)]


@pytest.mark.parametrize("separator", KINDS.values(), ids=KINDS)
def test_rows_name_pictures_beside_the_file(separator: str, tmp_path: Path) -> None:
    """The pictures all lie in one folder, which is no class."""
    data = written(tmp_path, [f"\ufefffile_name{separator}label", *rows(["cat", "dog"] * 3, separator)])
    shard = load_pooled(data, 0, 1)
    assert shard.classes == ("cat", "dog") and open_table(data).columns == ("image", "label")
    shades = shard.train_images.float().mean((1, 2, 3))
    assert ((shades > 75) == (shard.train_labels == 1)).all()


def test_text_stays_as_it_is_written_and_numbers_are_numbers(tmp_path: Path) -> None:
    for labels, names in (
        (["10", "2"] * 3, ("2", "10")),
        (["007", "7"] * 3, ("007", "7")),
        (["NA", "None"] * 3, ("NA", "None")),
        (["1.0", "0.0"] * 3, ("0", "1")),
        (['"cat, big"', "dog "] * 3, ("cat, big", "dog")),
    ):
        place = tmp_path / names[0]
        assert open_table(written(place, ["file,class", *rows(labels)])).label.names == names


def test_files_of_splits_are_told_by_their_names(tmp_path: Path) -> None:
    written(tmp_path, ["path,label", *rows(["a", "b"] * 3)], "train.csv")
    data = written(tmp_path, ["path,label", *rows(["a", "b"])], "Test.csv")
    shard = load_shard(Data(name=data.name, partition="iid", image_size=8, test="split"), 0, 0, 1)
    assert (len(shard.train_labels), len(shard.test_labels)) == (6, 2)
    written(tmp_path, ["path,label", *rows(["a", "b"])], "more.csv")
    with pytest.raises(SettingError, match=r"several files name its pictures \(Test.csv, more.csv, train.csv\); call them"):
        open_table(Data(name=data.name, partition="iid", image_size=16))


def test_what_is_wrong_with_a_row_is_told(tmp_path: Path) -> None:
    data = written(tmp_path / "gap", ["file,label", *rows(["a", "", "b", "a"])])
    with pytest.raises(SettingError, match="label missing in 1 row, first row 1"):
        open_table(data)
    data = written(tmp_path / "odd", ["file,label", *rows(["a", "b,c"])])
    with pytest.raises(SettingError, match=r"labels\.csv has 3 fields in row 2, and 2 in its first line"):
        open_table(data)
    data = written(tmp_path / "gone", ["file,label", *rows(["a", "b"] * 4)])
    with pytest.raises(SettingError, match=r"row 6 \(.*in/6\.png: there is no such file\)"):
        load_pooled(data, 0, 1)


def test_a_file_that_names_no_pictures_changes_nothing(tmp_path: Path) -> None:
    data = written(tmp_path, ["site,country", "a,b"], "notes.csv")
    (tmp_path / "in").rename(tmp_path / "cat")
    assert open_table(data).label.names == ("cat",)
