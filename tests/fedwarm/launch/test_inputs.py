"""Runs on inputs that are no pictures, end to end on the local engine, and what is refused before they begin."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedwarm.launch.preflight import check_run
from fedwarm.settings.fields import SettingError, Value
from tests.runs import run, same

FEW: dict[str, Value] = {"num-server-rounds": 2, "local-epochs": 2, "server-threads": 1}
TEXT: dict[str, Value] = {
    "data.name": "styles",
    "model.name": "gru",
    "gru.width": 24,
    "optimiser": "adamw",
    "learning-rate": 0.01,
}
TABLE: dict[str, Value] = {"data.name": "breast_cancer", "model.name": "mlp"}


def test_a_table_is_learned(tmp_path: Path) -> None:
    outcome = run("fedavg", tmp_path, {**FEW, **TABLE, "num-server-rounds": 3}, clients=4)
    assert outcome.results["final"]["global"]["accuracy"] > 0.85
    assert outcome.results["inputs"]["shape"] == [30] and len(outcome.results["inputs"]["columns"]) == 30
    assert outcome.results["partition"]["classes"] == ["malignant", "benign"]


def test_authors_are_told_apart(tmp_path: Path) -> None:
    settings: dict[str, Value] = {
        **FEW,
        **TEXT,
        "data.partition": "iid",
        "local-epochs": 5,
        "batch-size": 8,
        "data.max-examples": 60,
    }
    outcome = run("fedavg", tmp_path, settings, clients=2)
    assert outcome.results["final"]["global"]["accuracy"] > 0.6
    assert outcome.results["inputs"] == {"shape": [32], "dtype": "int64", "vocabulary": 97, "columns": []}


@pytest.mark.parametrize("method", ["fedprox", "scaffold", "local_only", "centralized", "dp_rec"])
def test_methods_take_what_is_no_picture(method: str, tmp_path: Path) -> None:
    settings = {**FEW, **TABLE, **({"data.standardise": "none", "dp-rec.entropy": "seeded"} if method == "dp_rec" else {})}
    assert run(method, tmp_path, settings, clients=4).results["complete"]


def test_a_resumed_run_of_a_text_is_the_same(tmp_path: Path) -> None:
    settings = {**FEW, **TEXT, "task": "language"}
    whole = run("fedavg", tmp_path / "whole", settings, clients=3)
    run("fedavg", tmp_path / "parts", {**settings, "num-server-rounds": 1}, clients=3)
    assert same(run("fedavg", tmp_path / "parts", {**settings, "resume": True}, clients=3).model, whole.model)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"method": "warmfed"}, "method = 'warmfed' works on pictures alone, and the data set has float32 inputs of shape"),
        ({"method": "fedavg", "task": "contrast"}, "task = 'contrast' works on pictures alone"),
        ({"method": "fedmix"}, "method = 'fedmix' works on pictures alone"),
        ({"method": "fedavg", "model.name": "cnn"}, "model.name = 'cnn' takes pictures, and the data set has"),
        ({"method": "fedavg", "model.name": "gru"}, "model.name = 'gru' reads texts of tokens"),
        ({"method": "fedavg", "task": "language"}, "the task wants the tokens that come next"),
        ({"method": "fedavg", "data.rotation": 90.0}, "data.rotation = 90 turns pictures"),
        ({"method": "fedavg", "privacy": "dp-sgd"}, "columns are standardised by the training examples, which no epsilon covers"),
    ],
)
def test_what_needs_pictures_is_refused_before_a_run(settings: dict[str, Value], said: str) -> None:
    with pytest.raises(SettingError, match=said) as caught:
        check_run({**TABLE, **settings}, 4)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("method", ["fedsparse", "federated_dropout", "ssfl", "frl", "fedwon", "fedbn"])
def test_what_looks_at_layers_waits_for_nodes_that_alone_know_the_inputs(method: str) -> None:
    """Their data are their own, and a network of texts is built when they have told what a text is."""
    known, _ = check_run({"method": method, "data.name": "own", "task": "language", "model.name": "gru"}, 3, real=True)
    assert known.run.method == method


def test_what_takes_pictures_is_looked_at_before_nodes_tell() -> None:
    with pytest.raises(SettingError, match="keeps statistics beside its weights"):
        check_run({"method": "fedsparse", "data.name": "own", "model.name": "resnet8", "model.norm": "batch"}, 3, real=True)
