"""A node's own data: where they lie, and what does not go with them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fedwarm.catalogue import parse
from fedwarm.data.own import Holding
from fedwarm.data.provenance import TRAIN, Marks, seen, source_of
from fedwarm.data.settings import Data
from fedwarm.rounds.home import at_home, check_own
from fedwarm.settings.fields import SettingError, Value
from tests.sets import write_site

OWN: dict[str, Value] = {"method": "fedavg", "data.name": "own", "data.image-size": 8}


def holding(folder: Path, classes: tuple[str, ...] = (), **more: Value) -> Holding:
    config = at_home(
        parse({**OWN, **{key.replace("__", "."): value for key, value in more.items()}}), {"data-folder": str(folder)}
    )
    return Holding(config.of(Data), 0, 5, 9, own=True, classes=classes)


def test_all_of_the_folder_is_one_nodes_and_labels_are_the_runs(tmp_path: Path) -> None:
    write_site(tmp_path, "classes", [("fox", i) for i in range(6)] + [("cat", i) for i in range(2)], ("cat", "fox"))
    alone = holding(tmp_path).shard()
    assert alone.classes == ("cat", "fox") and len(alone.train_labels) + len(alone.test_labels) == 8
    agreed = holding(tmp_path, ("dog", "fox", "cat"))
    shard = agreed.shard()
    assert shard.classes == ("dog", "fox", "cat") and agreed.counts() == [0, 6, 2]
    assert shard.counts() == [0, *reversed(alone.counts())]
    listed = holding(tmp_path, data__classes="fox, cat, bear")
    assert listed.counts() == [6, 2, 0] and listed.shard().classes == ("fox", "cat", "bear")


@pytest.mark.parametrize(
    ("classes", "listed", "said"),
    [
        (("cat", "dog"), "", r"holds images of class 'fox', which is none of the run's classes \(cat, dog\)"),
        ((), "cat,foxes", r"class 'fox', which data.classes = 'cat,foxes' lacks \(did you mean foxes\?\); add it there"),
    ],
)
def test_a_class_that_the_run_does_not_have_is_refused(classes: tuple[str, ...], listed: str, said: str, tmp_path: Path) -> None:
    write_site(tmp_path, "classes", [("fox", i) for i in range(3)] + [("cat", 0)], ("cat", "fox"))
    with pytest.raises(SettingError, match=f"data-folder = .*{said}"):
        holding(tmp_path, classes, data__classes=listed).shard()


def test_a_folder_that_cannot_be_used_is_told_in_the_nodes_own_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = parse(OWN)
    write_site(tmp_path / "one", "classes", [("cat", 0)], ("cat",))
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "train.parquet").write_bytes(b"nothing")
    for folder, said in (
        ("", "no data-folder, the folder of its own data"),
        ("site", "is relative"),
        (str(tmp_path / "no"), "there is no such folder on this machine"),
        (str(tmp_path / "file"), "is a file; give the folder that it lies in"),
    ):
        with pytest.raises(SettingError, match=said):
            at_home(config, {"data-folder": folder})
    for name, said in (
        ("empty", "^data-folder = .* cannot be read: .*doesn't contain any data files"),
        ("bad", "^data-folder = .* cannot be read: Parquet"),
        ("one", "holds fewer than 2 images; it needs some to train on and one to be held out"),
    ):
        with pytest.raises(SettingError, match=said) as refused:
            holding(tmp_path / name).shard()
        assert "data.name" not in str(refused.value) and "Hub" not in str(refused.value)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(SettingError, match="may not be read by the user that the node runs as"):
        at_home(config, {"data-folder": str(tmp_path)})


def test_files_of_pictures_are_named_in_the_nodes_log_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_site(tmp_path, "classes", [("cat", i) for i in range(4)], ("cat",))
    (tmp_path / "train" / "cat" / "cat-002.png").write_bytes(b"no picture")
    with pytest.raises(SettingError, match=r"row 2 \(of no image format that PIL knows\)") as refused:
        holding(tmp_path).shard()
    assert "cat-002" not in str(refused.value) and "row 2: " in caplog.text and "cat-002.png" in caplog.text


def test_a_run_on_own_data_tells_nothing_of_a_data_set_of_that_name(tmp_path: Path) -> None:
    write_site(tmp_path / "own", "classes", [(word, i) for word in ("cat", "dog") for i in range(6)], ("cat", "dog"))
    source = source_of(TRAIN, parse(OWN).of(Data), 0, 2)
    assert (source.data.name, source.marks) == ("own", Marks())
    assert seen(source, Data(name=str(tmp_path / "own"), partition="iid", image_size=8), 0, 2) == 0


def test_other_data_are_dealt_whatever_folder_a_node_has() -> None:
    config = parse({"method": "fedavg"})
    assert at_home(config, {"data-folder": "/no/such"}) is config


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"method": "centralized"}, "'centralized' trains on everybody's data in one place"),
        ({"data.test": "central"}, "data.test = 'central' needs data at the server"),
        ({"data.public-share": 0.5}, r"data.public-share = 0\.5 with data.name = 'own': no part of what nodes hold is public"),
        ({"privacy": "dp-sgd"}, "without data.classes tells the server which classes each node holds"),
        ({"method": "dp_rec"}, "name all classes of the run in data.classes"),
        ({"codec": "dp-rec"}, "name all classes of the run in data.classes"),
        (
            {"augment": "gen-fedsd", "gen-fedsd.rule": "global", "gen-fedsd.histogram-epsilon": 1.0,
             "data.share-class-counts": False},
            "name all classes of the run in data.classes",
        ),
        ({"data.classes": "cat"}, "is one class"),
    ],
)  # fmt: skip
def test_what_does_not_go_with_data_that_stay_is_refused_by_both_sides(
    settings: dict[str, Value], said: str, tmp_path: Path
) -> None:
    config = parse({**OWN, **settings})
    with pytest.raises(SettingError, match=said):
        check_own(config)
    with pytest.raises(SettingError, match=said):
        at_home(config, {"data-folder": str(tmp_path)})
    check_own(parse({**OWN, **settings, "data.name": "digits"}))


def test_named_classes_cover_what_privacy_asks_for() -> None:
    for settings in ({"privacy": "dp-sgd"}, {"method": "dp_rec"}):
        check_own(parse({**OWN, **settings, "data.classes": "cat,dog"}))
