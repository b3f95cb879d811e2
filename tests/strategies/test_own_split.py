"""Runs that test on the data set's own split: dealt or at the server it is the same accuracy, and the record says which."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import datasets
import pytest

from fedwarm.launch.preflight import check_run
from fedwarm.record.reading import read_run
from fedwarm.report.page import make_report
from fedwarm.settings.fields import SettingError, Value
from tests.runs import Outcome, run, same
from tests.sets import write_split

CLIENTS, TESTS = 3, 31


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Value]:
    """Settings of a data set of 60 training and 31 test images of three classes, by five writers; two of them have tests."""
    place = tmp_path_factory.mktemp("sets")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", place / "cache")
        write_split(place / "set", "train", [i % 3 for i in range(60)], writer_id=[f"w{i % 5}" for i in range(60)])
        write_split(place / "set", "test", [i * i % 3 for i in range(TESTS)], 900, writer_id=[f"w{i % 2}" for i in range(TESTS)])
        datasets.load_dataset(str(place / "set"))
    return {
        "data.name": str(place / "set"), "data.partition": "iid", "data.image-size": 8, "model.name": "logistic",
        "num-server-rounds": 2, "local-epochs": 1, "batch-size": 8,
    }  # fmt: skip


@pytest.fixture(scope="module")
def runs(data: dict[str, Value], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    place = tmp_path_factory.mktemp("runs")
    return {test: run("fedavg", place / test, {**data, "data.test": test}, clients=CLIENTS) for test in ("split", "central")}


def column(outcome: Outcome, *names: str) -> list[Any]:
    found = outcome.results["rounds"]
    for name in names:
        found = [entry[name] for entry in found]
    return found


def test_dealt_or_at_the_server_it_is_the_same_accuracy(runs: dict[str, Outcome]) -> None:
    assert same(runs["split"].model, runs["central"].model)
    split, central = (column(runs[test], "global", "accuracy") for test in ("split", "central"))
    assert split == central and all(abs(share * TESTS - round(share * TESTS)) < 1e-9 for share in central)
    assert runs["split"].results["final"]["global"] == runs["central"].results["final"]["global"] == {"accuracy": split[-1]}
    assert runs["split"].results["best"] == runs["central"].results["best"]


def test_the_server_asks_nobody(runs: dict[str, Outcome]) -> None:
    assert column(runs["central"], "bytes_evaluation") == [0, 0] < column(runs["split"], "bytes_evaluation")
    kinds = {message.metadata.message_type for message in runs["central"].messages}
    assert kinds == {"query", "train"}
    assert column(runs["central"], "global", "per_client") == [[None] * CLIENTS] * 2
    assert [stage["name"] for stage in runs["central"].results["stages"]] == ["round", "evaluate"] * 2


def test_record_and_page_say_which(runs: dict[str, Outcome]) -> None:
    for test, place in (("split", "dealt to the clients"), ("central", "at the server")):
        outcome = runs[test]
        assert outcome.results["evaluation"] == {"test": test, "split": "test", "images": TESTS}
        words = f"the {TESTS} images of the data set's own split 'test', {place}"
        assert read_run(outcome.folder).tested_on == words
        page = make_report([outcome.folder], outcome.folder.parent / f"{test}.html").read_text()
        assert f"Tested on {words}".replace("'", "&#39;") in page


def test_a_resumed_run_knows_what_the_server_measured(runs: dict[str, Outcome], data: dict[str, Value], tmp_path: Path) -> None:
    copied = Outcome(tmp_path / "again")
    shutil.copytree(runs["central"].folder, copied.folder)
    resumed = run("fedavg", copied.folder, {**data, "data.test": "central", "resume": True}, clients=CLIENTS)
    assert column(resumed, "global", "accuracy") == column(runs["central"], "global", "accuracy")


def test_a_client_without_test_images_counts_in_no_accuracy(data: dict[str, Value], tmp_path: Path) -> None:
    given = {**data, "data.test": "split", "data.partition": "natural", "num-server-rounds": 1}
    results = run("fedavg", tmp_path / "run", given, clients=5).results
    [entry] = results["rounds"]
    assert [share is None for share in entry["global"]["per_client"]] == [False, False, True, True, True]
    assert entry["failures"] == [] and results["evaluation"]["images"] == TESTS
    shares = [share * count for share, count in zip(entry["global"]["per_client"][:2], (16, 15), strict=True)]
    assert entry["global"]["accuracy"] == pytest.approx(sum(shares) / TESTS)
    assert "3 of 5 clients (2, 3, 4) have no test images: they count in no accuracy" in results["notes"]
    own = run("local_only", tmp_path / "own", given, clients=5).results
    assert own["final"]["personal"]["worst"] == min(a for a in own["rounds"][0]["personal"]["per_client"] if a is not None)


def test_personal_models_are_made_and_not_measured(data: dict[str, Value], tmp_path: Path) -> None:
    short: dict[str, Value] = {"warmfed.synthetic-ratio": 0.0, "warmfed.teacher-epochs": 1, "warmfed.distill-epochs": 1}
    given = {**data, **short, "data.test": "central"}
    results = run("warmfed", tmp_path / "run", given, clients=CLIENTS).results
    assert results["final"]["personal"] is None and results["final"]["global"]["accuracy"] is not None
    assert results["evaluation"]["images"] == TESTS and results["rounds"][0]["failures"] == []
    assert any("personal models are not measured" in note for note in results["notes"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "local_only"}, "local_only has none; take data.test = 'split' or 'held-out'"),
        ({"evaluate.bit-widths": "4"}, "evaluate.bit-widths = '4': models at other widths are measured at the clients"),
        ({"method": "quantization_robust"}, "evaluate.bit-widths = '8,7,6,5,4,3,2': models at other widths"),
        ({"data.test-split": "dev"}, "has no split 'dev', only train, test"),
        ({"data.name": "digits", "data.image-size": 32}, "`digits` has none"),
    ],
)
def test_what_cannot_be_at_the_server_is_refused(data: dict[str, Value], changes: dict[str, Value], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        check_run({"method": "fedavg", **data, "data.test": "central", **changes}, CLIENTS)


def test_one_class_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: dict[str, Value]) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    write_split(tmp_path / "set", "train", ["newt"] * 12)
    with pytest.raises(SettingError, match="all training images are of one class, 'newt'"):
        check_run({"method": "fedavg", **data, "data.name": str(tmp_path / "set")}, CLIENTS)
