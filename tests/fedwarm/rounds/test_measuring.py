"""Metrics and validation in a run: what clients tell, what results.json holds, what stops and chooses, and that it resumes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn import metrics as reference
from torch import Tensor

from fedwarm.catalogue import parse
from fedwarm.core.arrays import to_tensors
from fedwarm.core.payload import Payload, PayloadError
from fedwarm.data.settings import Data
from fedwarm.data.shards import load_shard
from fedwarm.models import Model, build_model
from fedwarm.rounds.gate import per_hundred, sums_per_hundred
from fedwarm.rounds.measuring import check_found, check_metrics
from fedwarm.settings.fields import SettingError, Value
from fedwarm.training.evaluate import predict
from tests.runs import Outcome, run, same
from tests.sets import write_split

SMALL: dict[str, Value] = {
    "num-server-rounds": 2, "local-epochs": 1, "data.max-examples": 40, "data.image-size": 8, "model.name": "logistic",
    "server-threads": 1,
}  # fmt: skip
ALL = "f1,auroc,calibration-error,confusion-matrix,balanced-accuracy"
CLIENTS = 3


def predicted(outcome: Outcome, client: int) -> tuple[Any, Any]:
    """Classes and logits of the final model on a client's test images."""
    config = parse({key: value for key, value in outcome.results["settings"].items() if key != "set"})
    shard = load_shard(config.of(Data), 0, client, CLIENTS)
    model = build_model(config.of(Model), len(shard.classes), 8, 0, to_tensors(outcome.model))
    return shard.test_labels, predict(model, shard.test_images)


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return run("fedavg", tmp_path_factory.mktemp("measured") / "run", {**SMALL, "metrics": ALL}, clients=CLIENTS)


def test_metrics_of_a_federation_are_those_of_all_its_test_images_together(outcome: Outcome) -> None:
    found = [predicted(outcome, client) for client in range(CLIENTS)]
    labels, logits = (torch.cat(parts) for parts in zip(*found, strict=True))
    final, last = outcome.results["final"], outcome.results["rounds"][-1]["global"]
    assert final["global"]["metrics"]["f1"] == pytest.approx(reference.f1_score(labels, logits.argmax(1), average="macro"))
    assert final["global"]["metrics"]["balanced-accuracy"] == pytest.approx(
        reference.balanced_accuracy_score(labels, logits.argmax(1))
    )
    wanted = reference.roc_auc_score(labels, logits.double().softmax(1), multi_class="ovr")
    assert final["global"]["metrics"]["auroc"] == pytest.approx(wanted, abs=3e-3)
    matrix = reference.confusion_matrix(labels, logits.argmax(1), labels=range(10))
    assert final["tables"]["confusion-matrix"]["all"] == matrix.tolist()
    assert final["global"]["accuracy"] == pytest.approx(matrix.trace() / matrix.sum())
    by_client = [reference.f1_score(y, x.argmax(1), average="macro") for y, x in found]
    assert last["metrics"]["f1"]["per_client"] == pytest.approx(by_client)
    assert len(final["tables"]["calibration-error"]["per_client"]) == CLIENTS
    told = outcome.results["evaluation"]["metrics"]
    assert told["calibration-error"] == {
        "title": "Calibration error", "better": "lower", "share": True, "pooled": "sums over all test examples"
    }  # fmt: skip


def test_metrics_change_no_model_and_no_other_number(outcome: Outcome, tmp_path: Path) -> None:
    plain = run("fedavg", tmp_path / "plain", SMALL, clients=CLIENTS)
    assert same(plain.model, outcome.model)
    assert plain.results["final"] == {"global": {"accuracy": outcome.results["final"]["global"]["accuracy"]}, "personal": None}
    assert {"metrics", "validation"}.isdisjoint(plain.results["evaluation"])
    assert all(set(entry["global"]) == {"accuracy", "per_client"} for entry in plain.results["rounds"])


def test_an_error_is_better_when_it_is_less(tmp_path: Path) -> None:
    settings: dict[str, Value] = {
        **SMALL,
        "watch": "loss",
        "num-server-rounds": 4,
        "target": 0.0,
        "patience": 1,
        "learning-rate": 0.2,
    }
    results = run("fedavg", tmp_path / "run", settings, clients=2).results
    losses = {entry["round"]: entry["global"]["metrics"]["loss"]["value"] for entry in results["rounds"]}
    assert (results["best"]["round"], results["best"]["value"]) == min(losses.items(), key=lambda item: (item[1], item[0]))
    again = run("fedavg", tmp_path / "stops", {**settings, "target": 1.01 * losses[1]}, clients=2).results
    assert [entry["round"] for entry in again["rounds"]] == [1]
    assert any("reached the target" in note for note in again["notes"])


def test_models_of_clients_are_measured_too(tmp_path: Path) -> None:
    results = run("local_only", tmp_path / "run", {**SMALL, "metrics": "f1", "watch": "f1"}, clients=2).results
    own = results["rounds"][-1]["personal"]["metrics"]["f1"]["per_client"]
    assert results["final"]["personal"]["metrics"]["f1"] == {"mean": pytest.approx(sum(own) / 2), "worst": min(own)}
    assert results["rounds"][-1]["global"]["metrics"]["f1"] == {"value": None, "per_client": [None, None]}
    assert results["best"]["watch"] == "f1" and results["best"]["value"] >= sum(own) / 2 - 1e-12


class Counted:
    """Examples, as a class of torchmetrics counts them: neither more nor fewer are better."""

    higher_is_better = None

    def __init__(self) -> None:
        self.count, self._defaults, self._reductions = torch.tensor(0.0), dict[str, Any](), dict[str, Any]()
        self.add_state("count", self.count)

    def add_state(self, name: str, default: Tensor) -> None:
        def dim_zero_sum() -> None: ...

        self._defaults[name], self._reductions[name] = default, dim_zero_sum

    def set_dtype(self, kind: torch.dtype) -> Any:
        return self

    def update(self, answers: Tensor, targets: Tensor) -> None:
        self.count = self.count + len(targets)

    def compute(self) -> Tensor:
        return self.count


def test_no_client_is_the_worst_by_a_metric_that_says_of_no_value_that_it_is_better(tmp_path: Path) -> None:
    name = "tests.fedwarm.rounds.test_measuring:Counted"
    results = run("local_only", tmp_path / "run", {**SMALL, "metrics": f"f1,{name}"}, clients=2).results
    own = results["final"]["personal"]["metrics"]
    assert own[name].keys() == {"mean"} and own["f1"].keys() == {"mean", "worst"}


def test_the_server_measures_on_a_split_of_its_own(tmp_path: Path) -> None:
    for split, many in (("train", 40), ("test", 18)):
        write_split(tmp_path / "set", split, [i % 3 for i in range(many)], 100 * (split == "test"))
    given: dict[str, Value] = {**SMALL, "metrics": "f1,confusion-matrix", "data.test": "central"}
    given |= {"data.name": str(tmp_path / "set"), "data.partition": "iid"}
    results = run("fedavg", tmp_path / "run", given, clients=2).results
    assert 0 < results["final"]["global"]["metrics"]["f1"] <= 1
    assert sum(map(sum, results["final"]["tables"]["confusion-matrix"]["all"])) == results["evaluation"]["images"] == 18


# Examples that clients hold back


def test_what_is_held_back_is_neither_trained_nor_tested_on() -> None:
    data = parse({"data.image-size": 8, "data.validation-fraction": 0.25}).of(Data)
    with_part, whole = load_shard(data, 0, 1, 4), load_shard(parse({"data.image-size": 8}).of(Data), 0, 1, 4)
    assert with_part.validation is not None and whole.validation is None
    images = torch.cat([with_part.train_images, with_part.validation[0]])
    assert len(images) == len(whole.train_images) and len(with_part.validation[1]) == round(len(images) / 4)
    assert {tuple(i.flatten().tolist()) for i in images} == {tuple(i.flatten().tolist()) for i in whole.train_images}
    assert torch.equal(with_part.test_images, whole.test_images)


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    given: dict[str, Value] = {**SMALL, "data.validation-fraction": 0.3, "metrics": "f1", "watch": "f1", "num-server-rounds": 3}
    return run("fedavg", tmp_path_factory.mktemp("held") / "run", given, clients=CLIENTS)


def test_the_best_model_is_chosen_by_what_is_held_back(held: Outcome) -> None:
    results = held.results
    values = {entry["round"]: entry["validation"]["global"]["metrics"]["f1"]["value"] for entry in results["rounds"]}
    best = max(values, key=lambda n: (values[n], -n))
    assert results["best"] == {"round": best, "watch": "f1", "value": values[best], "measured_on": "validation"}
    assert results["evaluation"]["validation"] == results["rounds"][-1]["validation"]["images"] == CLIENTS * 12
    assert results["evaluation"]["images"] > 0 and not any("chosen by test" in note for note in results["notes"])


def test_a_choice_that_was_made_on_test_images_is_told(outcome: Outcome, tmp_path: Path) -> None:
    assert outcome.results["best"]["measured_on"] == "test"
    results = run("fedavg", tmp_path / "run", {**SMALL, "patience": 1}, clients=2).results
    assert any("chosen by test examples (patience with data.validation-fraction = 0)" in note for note in results["notes"])


def test_it_is_the_same_with_workers_and_when_resumed(held: Outcome, tmp_path: Path) -> None:
    given: dict[str, Value] = {**SMALL, "data.validation-fraction": 0.3, "metrics": "f1", "watch": "f1"}
    part = run("fedavg", tmp_path / "run", {**given, "num-server-rounds": 2}, clients=CLIENTS)
    resumed = run("fedavg", part.folder, {**given, "num-server-rounds": 3, "resume": True}, clients=CLIENTS)
    assert same(resumed.model, held.model)
    for key in ("final", "best", "evaluation"):
        assert resumed.results[key] == held.results[key]


# What is refused


def reply(**facts: Any) -> Payload:
    return Payload(metrics={"num-test": 4, "correct-global": 2}, facts=facts)


@pytest.mark.parametrize(
    "wrong",
    [
        {"sums-global-counts": [1.0] * 8}, {"sums-global-counts": [1.0] * 8 + [float("nan")]}, {"sums-global-counts": ["1"] * 9},
        {"sums-global-speed": [1.0]}, {"sums-others-counts": [1.0] * 9}, {"sums-validation-global-scores": [1.0]},
    ],
)  # fmt: skip
def test_sums_that_cannot_be_added_are_refused(wrong: dict[str, Any]) -> None:
    config = parse({"metrics": "f1"})
    check_found(config, reply(**{"sums-global-counts": [1.0] * 9}), 3)
    with pytest.raises(PayloadError):
        check_found(config, reply(**wrong), 3)


def test_a_share_has_no_target_above_one() -> None:
    with pytest.raises(SettingError, match=r"target = 3 is out of range: watch = 'accuracy' lies between 0 and 1"):
        check_metrics(parse({"target": 3.0}))
    check_metrics(parse({"task": "regression", "target": 3.0}))


def test_where_numbers_of_images_are_hidden_sums_are_of_a_hundred() -> None:
    metrics = {"num-test": 8, "correct-global": 2, "num-validation": 3, "correct-validation-global": 2}
    assert per_hundred(metrics) == {"num-test": 100, "correct-global": 25, "num-validation": 100, "correct-validation-global": 67}
    facts = {"sums-global-counts": [3.0, 5.0], "sums-validation-global-errors": [1.5], "classes": ["a"]}
    assert sums_per_hundred(facts, metrics) == {  # type: ignore[arg-type]
        "sums-global-counts": [38.0, 62.0], "sums-validation-global-errors": [50.0]
    }  # fmt: skip
