"""FedAvg, FedProx and the baselines, end to end on real digits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from fedwarm.catalogue import parse
from fedwarm.core.seeds import generator
from fedwarm.data import load_shard
from fedwarm.data.settings import Data
from fedwarm.models import Model, build_model
from fedwarm.training.loop import Plan, fit
from tests.runs import run, same

LIGHT = {"data.image-size": 16, "server-threads": 1}
FAST = {**LIGHT, "num-server-rounds": 2, "local-epochs": 1, "data.max-examples": 60}


@pytest.fixture(scope="module")
def fedavg(tmp_path_factory: pytest.TempPathFactory):
    return run("fedavg", tmp_path_factory.mktemp("fedavg") / "run", FAST)


def test_the_average_is_the_slow_loop(fedavg) -> None:
    config = parse({"method": "fedavg", **FAST})
    shards = [load_shard(config.of(Data), 0, i, 4) for i in range(4)]
    weights = {n: t.numpy() for n, t in build_model(config.of(Model), 10, 16, 0).state_dict().items()}
    torch.set_num_threads(1)
    for number in (1, 2):
        total = {name: np.zeros(a.shape) for name, a in weights.items()}
        for i, shard in enumerate(shards):
            model = build_model(config.of(Model), 10, 16, 0)
            model.load_state_dict({n: torch.tensor(a) for n, a in weights.items()})
            fit(model, shard.train_images, shard.train_labels, Plan.of(config.run), generator(0, "train", number, i))
            for name, tensor in model.state_dict().items():
                total[name] += tensor.numpy().astype(np.float64) * len(shard.train_labels)
        n = sum(len(s.train_labels) for s in shards)
        weights = {name: (a / n).astype(np.float32) for name, a in total.items()}
    assert same(fedavg.model, weights)


def test_results_follow_the_schema(fedavg) -> None:
    results = fedavg.results
    assert (results["schema"], results["method"], results["seed"], results["engine"]) == (1, "fedavg", 0, "flower")
    assert results["partition"]["clients"] == 4 and np.array(results["partition"]["counts"]).shape == (4, 10)
    assert [r["round"] for r in results["rounds"]] == [1, 2]
    assert results["final"]["global"]["accuracy"] == results["rounds"][-1]["global"]["accuracy"]
    assert results["totals"]["bytes_up"] == sum(sum(r["bytes_up"]) for r in results["rounds"])
    assert results["privacy"] is None


def test_it_learns(tmp_path: Path) -> None:
    rounds = run("fedavg", tmp_path / "run", {**LIGHT, "num-server-rounds": 5}).results["rounds"]
    assert rounds[-1]["global"]["accuracy"] > 0.6 > rounds[0]["global"]["accuracy"]
    assert rounds[-1]["train_loss"] < 0.5 * rounds[0]["train_loss"]


def test_ledger_counts_the_bytes_that_travel(fedavg) -> None:
    payload = sum(a.nbytes for a in fedavg.model.values())
    wire = payload + 128 * len(fedavg.model)
    for row in fedavg.ledger:
        assert (row["payload_bytes_down"], row["wire_bytes_down"]) == (payload, wire)
        assert row["wire_bytes_up"] == (wire if row["stage"] == "round" else 0)
    replies = [r for r in fedavg.replies if r.metadata.message_type == "train"]
    assert all(sum(len(a.data) for a in r.content["arrays"].values()) == wire for r in replies)
    assert fedavg.results["rounds"][0]["bytes_up"] == [wire] * 4


def test_workers_give_the_same_model(fedavg, tmp_path: Path) -> None:
    assert same(run("fedavg", tmp_path / "run", FAST, workers=2).model, fedavg.model)


def test_fedprox_without_its_term_is_fedavg_bit_for_bit(fedavg, tmp_path: Path) -> None:
    assert same(run("fedprox", tmp_path / "run", {**FAST, "fedprox.mu": 0.0}).model, fedavg.model)


@pytest.mark.long
def test_fedprox_stays_nearer_to_the_start(tmp_path: Path) -> None:
    settings = {**LIGHT, "num-server-rounds": 1, "local-epochs": 4}
    start = {n: t.numpy() for n, t in build_model(parse({}).of(Model), 10, 16, 0).state_dict().items()}

    def distance(model: dict[str, np.ndarray]) -> float:
        return float(sum(np.square(model[n] - start[n]).sum() for n in start))

    near = distance(run("fedprox", tmp_path / "near", {**settings, "fedprox.mu": 5.0}).model)
    assert near < 0.5 * distance(run("fedavg", tmp_path / "far", settings).model)


def test_sampled_clients_come_from_the_seed(tmp_path: Path) -> None:
    settings = {**FAST, "fraction-train": 0.5}
    rows = [run("fedavg", tmp_path / str(i), {**settings, "seed": s}).ledger for i, s in enumerate((0, 0, 1))]
    cohorts = [[(r["round"], r["client"]) for r in ledger if r["stage"] == "round"] for ledger in rows]
    assert cohorts[0] == cohorts[1] != cohorts[2]
    assert all(len(c) == 4 for c in cohorts)


def test_local_only_shares_nothing(tmp_path: Path) -> None:
    outcome = run("local_only", tmp_path / "run", {**FAST, "num-server-rounds": 3, "local-epochs": 5})
    final = outcome.results["final"]
    assert final["global"]["accuracy"] is None
    assert final["personal"]["mean"] > 0.4 and final["personal"]["worst"] <= final["personal"]["mean"]
    assert outcome.results["totals"]["bytes_up"] == outcome.results["totals"]["bytes_down"] == 0
    assert not any(r.content["arrays"] for r in outcome.replies)


def test_centralized_trains_on_everybody_s_data(tmp_path: Path) -> None:
    outcome = run("centralized", tmp_path / "run", {**FAST, "data.max-examples": 0})
    trained = [r for r in outcome.replies if r.metadata.message_type == "train"]
    examples = np.array(outcome.results["partition"]["counts"]).sum()
    assert len(trained) == 2 and all(r.content["metrics"]["num-examples"] == examples for r in trained)


def test_a_strategy_works_as_a_library() -> None:
    from fedwarm.strategies import FedAvg, FedProx, WarmFed

    assert FedAvg(num_server_rounds=7, data__alpha=0.1).config.of(Data).alpha == 0.1
    assert FedProx().config.run.method == "fedprox" and WarmFed().config.run.method == "warmfed"
