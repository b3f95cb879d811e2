"""Methods, codecs, rules and privacy on tables and texts: what covers any task does, what does not is refused in one line."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

from fedwarm.catalogue import parse
from fedwarm.cli.coverage import coverage
from fedwarm.privacy.mechanisms.dp_sgd import COMPONENT as DP_SGD
from fedwarm.relevance import Run
from fedwarm.rounds.fits import refuse_unfit
from fedwarm.settings import kinds
from fedwarm.settings.fields import SettingError, Value
from fedwarm.strategies import strategy_class
from tests.runs import Outcome, run, same
from tests.tabular import CASES

CLIENTS = 3
TABULAR, TEXT = CASES["regression"], CASES["language"]
PRIVATE: dict[str, Value] = {"dp-rec.bits": 3, "dp-rec.entropy": "seeded", "dp-rec.view": "local", "dp-rec.clip": 1.0}
OWN: dict[str, dict[str, Value]] = {
    "dp_rec": {**PRIVATE, "dp-rec.noise-multiplier": 2.0}, "fedbn": {"model.name": "tests.tabular:normed"}
}  # fmt: skip


def declared(name: str) -> bool:
    """Whether a method works on classes or pictures alone, or what it presets does."""
    run = Run({}, name)
    return bool(run.stating("classed") or run.stating("pictures"))


ANY = [name for name in kinds.METHODS.own() if not declared(name)]


def checked(outcome: Outcome, name: str, metric: str) -> None:
    results = outcome.results
    assert results["complete"] and not any(entry["failure"] for entry in outcome.ledger)
    final = results["final"]
    value = (final["global"].get("metrics") or {}).get(metric) or final["personal"]["metrics"][metric]["mean"]
    assert math.isfinite(value), name
    if (outcome.folder / "model.safetensors").exists():
        assert all(np.isfinite(array).all() for array in outcome.model.values() if array.dtype.kind == "f")


@pytest.mark.parametrize("name", ANY)
def test_a_method_that_says_no_more_trains_on_tables(name: str, tmp_path: Path) -> None:
    checked(run(name, tmp_path / "run", {**TABULAR, **OWN.get(name, {})}, clients=CLIENTS), name, "rmse")


def test_one_that_measures_classes_by_default_trains_on_tables_without(tmp_path: Path) -> None:
    given: dict[str, Value] = {**TABULAR, "set": "evaluate.bit-widths=''"}
    checked(run("quantization_robust", tmp_path / "run", given, clients=CLIENTS), "quantization_robust", "rmse")


@pytest.mark.parametrize("name", ["fedavg", "scaffold", "dp_rec", "local_only", "centralized", "ifca"])
def test_and_on_texts(name: str, tmp_path: Path) -> None:
    checked(run(name, tmp_path / "run", {**TEXT, **OWN.get(name, {})}, clients=CLIENTS), name, "perplexity")


@pytest.mark.parametrize("name", [name for name in kinds.METHODS.own() if kinds.METHODS.load(name).classed])
def test_a_method_that_says_so_refuses_other_tasks_before_the_run(name: str) -> None:
    with pytest.raises(SettingError) as error:
        strategy_class(name)(parse({"method": name, **TABULAR}))
    text = str(error.value)
    assert "\n" not in text and "task" in text and repr(name) in text


OTHERS: list[dict[str, Value]] = [
    *({"codec": codec} for codec in kinds.CODECS.own() if codec != "dp-rec"),
    {"codec": "dp-rec", **PRIVATE, "dp-rec.noise-multiplier": 2.0},
    *({"robust.rule": rule, "robust.byzantine": 0} for rule in kinds.RULES.own()),
    {"privacy": "dp-sgd", "dp-sgd.noise-multiplier": 1.0, "dp-sgd.entropy": "seeded"},
    *({"objective": name} for name in kinds.OBJECTIVES.own() if name != "plain" and not kinds.OBJECTIVES.load(name).classed),
    {"data.validation-fraction": 0.25, "watch": "personal", "method": "fedavg_ft"},
]


@pytest.mark.parametrize("more", OTHERS, ids=lambda more: "-".join(map(str, list(more.values())[:1])))
@pytest.mark.parametrize("case", ["regression", "language"])
def test_codecs_rules_and_privacy_go_with_any_task(case: str, more: dict[str, Value], tmp_path: Path) -> None:
    method = str(more.get("method", "fedavg"))
    main = {"regression": "rmse", "language": "perplexity"}[case]
    checked(run(method, tmp_path / "run", {**CASES[case], **more}, clients=CLIENTS), str(more), main)


@pytest.mark.parametrize("case", CASES)
def test_a_resumed_run_ends_as_a_whole_one(case: str, tmp_path: Path) -> None:
    given = {**CASES[case], "data.validation-fraction": 0.2}
    whole = run("fedavg", tmp_path / "whole", given, clients=CLIENTS)
    part = run("fedavg", tmp_path / "part", {**given, "num-server-rounds": 1}, clients=CLIENTS)
    resumed = run("fedavg", part.folder, {**given, "resume": True}, clients=CLIENTS)
    assert same(whole.model, resumed.model) and whole.results["final"] == resumed.results["final"]


@pytest.mark.processes
@pytest.mark.long
@pytest.mark.parametrize("case", ["regression", "language"])
def test_two_workers_give_the_same_model(case: str, tmp_path: Path) -> None:
    one = run("fedavg", tmp_path / "one", CASES[case], clients=CLIENTS)
    two = run("fedavg", tmp_path / "two", CASES[case], clients=CLIENTS, workers=2)
    assert same(one.model, two.model) and one.results["final"] == two.results["final"]


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ({"augment": "gen-fedsd"}, "augment = 'gen-fedsd' works on classes alone, and task = 'regression' has numbers"),
        ({"evaluate.bit-widths": "4"}, r"measure widths \(evaluate\.\*\) works on classes alone"),
        ({"probe.linear": True}, r"measure probes \(probe\.\*\) works on classes alone"),
        ({"prune.densities": "0.5"}, r"measure densities \(prune\.\*\) works on classes alone"),
    ],
)
def test_parts_that_need_classes_refuse_other_tasks_when_they_are_used(more: dict[str, Any], text: str) -> None:
    refuse_unfit(parse({"method": "fedavg", **TABULAR}))
    with pytest.raises(SettingError, match=text):
        refuse_unfit(parse({"method": "fedavg", **TABULAR, **more}))


@pytest.mark.parametrize(
    "layer", [nn.LSTM(4, 3), nn.MultiheadAttention(4, 2), nn.BatchNorm1d(4)], ids=lambda layer: type(layer).__name__
)
def test_dp_sgd_covers_what_opacus_covers(layer: nn.Module) -> None:
    DP_SGD.refuse_model(
        nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 4), nn.LayerNorm(4), nn.Conv1d(4, 2, 1), nn.GroupNorm(1, 2))
    )
    with pytest.raises(SettingError, match=r"^dp-sgd cannot train ") as error:
        DP_SGD.refuse_model(nn.Sequential(nn.Linear(4, 4), layer))
    assert "\n" not in str(error.value)


def test_the_table_in_the_documents_is_what_components_say() -> None:
    path = Path(__file__).parents[2] / "docs" / "coverage.md"
    assert path.read_text(encoding="utf-8") == coverage(), "write it anew: fedwarm components --coverage > docs/coverage.md"
