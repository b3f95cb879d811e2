"""Folders of pictures by class, and folders whose names mean something to a shell."""

from __future__ import annotations

import os
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from fedwarm.data import load_pooled
from fedwarm.data.hub import hub_table, read
from fedwarm.data.settings import Data
from fedwarm.data.shards import open_table
from fedwarm.settings.fields import SettingError

ODD = ["sp ace", "br[ac]ket", "st*r", "qu?st", "per%20cent", "ha#sh", "ünï", "quo'te\"", "new\nline", "cur{a,b}ly", "back\\slash",
       "til~de", "a::b", "train", "test", "-dash", "!bang", "$var", "a&b"]  # fmt: skip
ANIMALS = ["cat/1.png", "cat/2.png", "dog/1.png", "dog/2.png"]


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


def drawn(folder: Path, files: list[str]) -> Path:
    """Pictures at these places, of the shades 10, 20, .."""
    for i, file in enumerate(files):
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix.lower() in (".png", ".jpg", ".jpeg", ".bmp"):
            Image.new("L", (8, 8), 10 + 10 * i).save(path)
        else:
            path.write_text("")
    return folder


def found(folder: Path, split: str = "train") -> list[tuple[str, str]]:
    """File, relative to the folder, and class of every row."""
    from fedwarm.data.folders import splits_of

    rows = splits_of(str(folder), "set")[split].cast_column("image", datasets.Image(decode=False))
    names = rows.features["label"].names
    return [(os.path.relpath(row["image"]["path"], folder), names[row["label"]]) for row in rows]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (ANIMALS, ANIMALS),
        ([f"train/{f}" for f in ANIMALS] + [f"test/{f}" for f in ANIMALS[:2]], [f"train/{f}" for f in ANIMALS]),
        ([f"data/training/{f}" for f in ANIMALS], [f"data/training/{f}" for f in ANIMALS]),
        ([f"Train/{f}" for f in ANIMALS] + ["Val/cat/1.png"], [f"Train/{f}" for f in ANIMALS]),
        ([f"train/{f}" for f in ANIMALS] + ["extra/cat/1.png"], [f"train/{f}" for f in ANIMALS]),
        (["site/a/cat/1.png", "site/b/dog/1.png"], ["site/a/cat/1.png", "site/b/dog/1.png"]),
        (["train/1.png", "car/1.png", "test tube/1.png"], ["car/1.png", "test tube/1.png", "train/1.png"]),
        (["test/1.png", "zebra/1.png"], ["test/1.png", "zebra/1.png"]),
        (["cat/1.PNG", "cat/2.Jpg", "dog/1.jpeg", "dog/2.BMP"], ["cat/1.PNG", "cat/2.Jpg", "dog/1.jpeg", "dog/2.BMP"]),
        ([*ANIMALS, "cat/.hidden.png", ".trash/1.png", "__MACOSX/cat/1.png", "cat/Thumbs.db", "notes.txt", "README.md"], ANIMALS),
        (["cat/10.png", "cat/9.png", "cat-x/1.png"], ["cat-x/1.png", "cat/10.png", "cat/9.png"]),
    ],
)
def test_the_class_is_the_folder(tmp_path: Path, files: list[str], expected: list[str]) -> None:
    folder = drawn(tmp_path / "set", files)
    assert found(folder) == [(file, file.split("/")[-2]) for file in expected]


@pytest.mark.parametrize("files", [[f"train/{f}" for f in ANIMALS], ["cat/10.png", "cat/9.png", "cat-x/1.png", "a/1.JPG"]])
def test_plain_folders_are_what_the_library_makes_of_them(tmp_path: Path, files: list[str]) -> None:
    folder = drawn(tmp_path / "set", files)
    theirs = datasets.load_dataset(str(folder), split="train").cast_column("image", datasets.Image(decode=False))
    ours = read(str(folder)).cast_column("image", datasets.Image(decode=False))
    assert ours.features == theirs.features and ours[:] == theirs[:]


def test_a_test_split_is_there_for_who_asks(tmp_path: Path) -> None:
    folder = drawn(tmp_path / "set", ["train/cat/1.png", "train/dog/1.png", "test/dog/1.png"])
    assert found(folder, "test") == [("test/dog/1.png", "dog")]
    shard = load_pooled(Data(name=str(folder), test="split", partition="iid", image_size=8), 0, 1)
    assert shard.classes == ("cat", "dog") and shard.test_labels.tolist() == [1] and len(shard.train_labels) == 2
    with pytest.raises(SettingError, match="has no split 'validation', only train, test"):
        read(str(folder), "validation")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["1.png", "2.png"], "its pictures lie in no class folders, e.g. '1.png'; put each in a folder named after its class"),
        (["train/1.png", "test/1.png"], "its pictures lie in no class folders, e.g. 'train/1.png'"),
        (["0.png", "cat/1.png"], "its pictures lie at unlike depths, '0.png' and 'cat/1.png'"),
        (["test/cat/1.png"], "it has no train split; its folders are test"),
    ],
)
def test_folders_without_classes_are_refused_with_the_true_reason(tmp_path: Path, files: list[str], message: str) -> None:
    folder = drawn(tmp_path / "set", files)
    with pytest.raises(SettingError, match=message):
        load_pooled(Data(name=str(folder)), 0, 1)


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")  # the library's own
def test_a_folder_with_a_description_is_left_to_the_library(tmp_path: Path) -> None:
    folder = drawn(tmp_path / "set", ["1.png", "2.png"])
    (folder / "metadata.csv").write_text("file_name,label\n1.png,cat\n2.png,dog\n")
    assert open_table(Data(name=str(folder), image_size=8)).label.names == ("cat", "dog")


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "train.parquet").write_bytes(b"")
    with pytest.raises(SettingError, match=r"train.parquet' is a file; give the folder that it lies in"):
        read(str(tmp_path / "train.parquet"))


def test_names_that_are_no_text_are_refused(tmp_path: Path) -> None:
    folder = drawn(tmp_path / "set", ANIMALS)
    try:
        os.rename(folder / "cat", os.fsencode(folder) + b"/c\xe9t")
    except OSError:
        pytest.skip("this file system takes no such name")
    with pytest.raises(SettingError, match=r"the name of b'.*c\\xe9t/1.png' is not UTF-8; give it another"):
        read(str(folder))


@pytest.mark.parametrize("name", ODD)
def test_a_path_may_hold_any_character(tmp_path: Path, name: str) -> None:
    """Pictures by class and parquet files; a folder beside it, which a pattern would find, is left alone."""
    for near in ("staar", "quest", "bra"):
        drawn(tmp_path / near, ["cow/1.png"])
    folder = drawn(tmp_path / name, ANIMALS)
    hub_table.cache_clear()
    table = open_table(Data(name=str(folder), image_size=8))
    assert table.label.names == ("cat", "dog") and "\n" not in table.name
    assert table.images(np.arange(4))[:, 0, 0, 0].tolist() == [10, 20, 30, 40]
    stored = tmp_path / "tables" / name
    for place, label in ((stored, 7), (tmp_path / "tables" / "staar", 8), (tmp_path / "tables" / "quest", 9)):
        place.mkdir(parents=True)
        datasets.Dataset.from_dict({"image": [b""], "label": [label]}).to_parquet(tmp_path / "new.parquet")
        os.rename(tmp_path / "new.parquet", place / "train.parquet")
    assert read(str(stored))["label"][:] == [7]
    assert read(str(stored))["label"][:] == [7], "and once more, by what is kept of it"


@pytest.mark.parametrize(
    "name", ["tr[a]in.parquet", "train *.parquet", "train::1.parquet", "train\n.parquet", "sub::x/train.parquet"]
)
def test_files_may_be_called_anything(tmp_path: Path, name: str) -> None:
    datasets.Dataset.from_dict({"image": [b""], "label": [3]}).to_parquet(tmp_path / "x.parquet")
    place = tmp_path / "set" / name
    place.parent.mkdir(parents=True)
    os.rename(tmp_path / "x.parquet", place)
    assert read(str(tmp_path / "set"))["label"][:] == [3]


def test_a_class_may_be_called_anything(tmp_path: Path) -> None:
    names = sorted(name for name in ODD if name not in ("train", "test"))
    folder = drawn(tmp_path / "set", [f"{name}/1.png" for name in names])
    table = open_table(Data(name=str(folder), image_size=8))
    assert table.label.names == tuple(names) and len(table) == len(names)
