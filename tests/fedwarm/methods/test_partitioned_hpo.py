"""Partitioned hyperparameter optimisation in a federation: limits bit for bit, what travels, chunks, psi, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from clients import partitioned_hpo
from fedwarm.catalogue import parse
from fedwarm.clients import trainer_class
from fedwarm.core.payload import Payload, PayloadError
from fedwarm.core.stages import Stage
from fedwarm.core.store import Store
from fedwarm.data.node import Node
from fedwarm.launch.preflight import check_run
from fedwarm.methods.partitioned_hpo import PARTITION, VALUES, PartitionedHpo
from fedwarm.partitioned.turn import Turn, digest_of
from fedwarm.rounds.fleet import Fleet, Member
from fedwarm.settings.fields import SettingError, Value
from fedwarm.strategies import strategy_class
from fedwarm.training.evaluate import correct, predict
from tests.runs import Outcome, run, same

OWN = "partitioned-hpo."
SMALL: dict[str, Value] = {
    "num-server-rounds": 3, "local-epochs": 1, "data.max-examples": 20, "data.image-size": 8, "model.name": "logistic",
    "server-threads": 1, f"{OWN}samples": 2, f"{OWN}final": "full",
}  # fmt: skip


def small(**own: Value) -> dict[str, Value]:
    return {**SMALL, **{OWN + key.replace("_", "-"): value for key, value in own.items()}}


def run_small(folder: Path, method: str = "partitioned_hpo", **own: Value) -> Outcome:
    return run(method, folder, small(**own), clients=3)


def server(clients: int = 3, **own: Value) -> Any:
    strategy: Any = strategy_class("partitioned_hpo")(parse({"method": "partitioned_hpo", **small(**own)}))
    strategy.fleet = Fleet(tuple(Member(i, i, 20, 5, tuple(range(10)), None) for i in range(clients)), tuple("0123456789"), 8)
    strategy.arrays = strategy.initial_arrays()
    return strategy


def client(partition: int, folder: Path, **own: Value) -> Any:
    config = parse({"method": "partitioned_hpo", **small(**own)})
    return trainer_class("partitioned_hpo")(config, Node(partition, 3, Store(folder, "ab", 0, 64)))


def numbers_of(payload: Payload) -> int:
    return sum(array.size for array in payload.arrays.values())


# Limits


def test_one_chunk_is_fedavg_bit_for_bit(tmp_path: Path) -> None:
    plain, ours = run_small(tmp_path / "a", "fedavg"), run_small(tmp_path / "b", chunks=1, learn="temperature")
    assert same(plain.model, ours.model)
    assert plain.results["final"]["global"] == ours.results["final"]["global"]
    assert "measures" not in ours.results
    none = run_small(tmp_path / "c", chunks=1, learn="")
    assert same(plain.model, none.model) and none.results["totals"]["bytes_up"] == pytest.approx(
        plain.results["totals"]["bytes_up"], rel=0.05
    )


def test_what_a_run_finds_is_what_a_later_run_takes(tmp_path: Path) -> None:
    found = run_small(tmp_path / "a", learn="temperature+mask").results["measures"]["psi"]
    assert [entry["round"] for entry in found["rounds"]] == [1, 2, 3] and found["names"] == ["temperature", *["mask"] * 64]
    later = parse({"method": "partitioned_hpo", **SMALL, **found["settings"]}).of(PartitionedHpo)
    assert later.psi_of(8)[1].tolist() == found["rounds"][-1]["values"] and later.chunks == 1
    assert found["rounds"][0]["values"] != found["rounds"][-1]["values"]
    settings = {**SMALL, **found["settings"]}
    again = run("partitioned_hpo", tmp_path / "b", settings, clients=3)
    assert "measures" not in again.results and again.results["complete"]


# What travels


@pytest.mark.parametrize(
    ("mode", "trained", "got"), [("B", [(1,), (2,), (3,)], [1, 2, 3]), ("A", [(1, 2, 3), (2, 3), (3,)], [3] * 3)]
)
def test_bytes_are_those_of_the_formula(mode: str, trained: list[tuple[int, ...]], got: list[int], tmp_path: Path) -> None:
    """Down 4 P sum f_j over the partitions that a chunk gets, up over those that it trains, and 4 |psi| each way."""
    strategy = server(mode=mode)
    sizes, stage = strategy.layouts[False].sizes, Stage(1, "round", "train", (0, 1, 2))
    assert sizes.sum() == 8 * 8 * 3 * 10 + 10 and sorted(strategy.chunks) == [1, 2, 3]
    for partition, chunk in enumerate(strategy.chunks):
        asked = strategy.instruct(stage, partition)
        reply = client(partition, tmp_path, mode=mode).round(asked)
        assert {*reply.arrays} - {VALUES} == {f"{PARTITION}{k}" for k in trained[chunk - 1]}
        assert numbers_of(asked) == sizes[: got[chunk - 1]].sum() + 6
        assert numbers_of(reply) == sum(sizes[k - 1] for k in trained[chunk - 1]) + 6 * (chunk > 1)
        assert all(array.dtype == np.float32 for array in (*asked.arrays.values(), *reply.arrays.values()))
        expected = strategy.expected_of(stage, partition, reply, strategy.expected(stage))
        assert {n: a.shape for n, a in expected.items()} == {n: a.shape for n, a in reply.arrays.items()}


def test_the_gradient_is_taken_before_training_on_what_came(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Turn] = []
    built = Turn.__init__

    def noted(self: Turn, *given: Any) -> None:
        built(self, *given)
        assert not self.parts
        made.append(self)

    monkeypatch.setattr(Turn, "__init__", noted)
    strategy, stage = server(), Stage(1, "round", "train", (0, 1, 2))
    for partition, chunk in enumerate(strategy.chunks):
        reply = client(partition, tmp_path).round(strategy.instruct(stage, partition))
        received = strategy.layouts[False].subnetwork(strategy.arrays, chunk - 1)
        assert made[-1].digest == (digest_of(received) if chunk > 1 else "") and (VALUES in reply.arrays) == (chunk > 1)
        assert not np.array_equal(reply.arrays[f"{PARTITION}{chunk}"], strategy.layouts[False].packed(strategy.arrays, chunk))
    assert len(made) == 3


def test_a_chunk_that_nobody_answers_for_keeps_its_partition() -> None:
    strategy, stage = server(), Stage(1, "round", "train", (0, 1, 2))
    before, values = strategy.layouts[False].packed(strategy.arrays, 3), strategy.values.copy()
    strategy.begin(stage)
    for partition, chunk in enumerate(strategy.chunks):
        if chunk < 3:
            arrays = {f"{PARTITION}{chunk}": strategy.layouts[False].packed(strategy.arrays, chunk) + np.float32(chunk)}
            slope = {VALUES: np.full(6, 2.0, np.float32)} if chunk == 2 else {}
            strategy.absorb(stage, partition, Payload("weights", {**arrays, **slope}, {"num-examples": 5}))
    old = strategy.arrays
    strategy.finish(stage)
    layout = strategy.layouts[False]
    assert np.array_equal(layout.packed(strategy.arrays, 3), before)
    assert np.array_equal(layout.packed(strategy.arrays, 2), layout.packed(old, 2) + np.float32(2))
    assert strategy.values == pytest.approx(values - 0.05) and any("partition 3" in note for note in strategy.record.notes)


def test_psi_goes_by_the_mean_of_gradients_weighted_by_images() -> None:
    strategy, stage = server(psi_local_steps=1), Stage(1, "round", "train", (0, 1, 2))
    strategy.begin(stage)
    for value, weight in ((1.0, 10), (4.0, 30)):
        strategy.absorb(stage, 0, Payload("weights", {VALUES: np.full(6, value, np.float32)}, {"num-examples": weight}))
    before = strategy.values
    strategy.finish(stage)
    assert strategy.values == pytest.approx(before - 3.25)


def test_the_network_is_trained_whole_at_the_end(tmp_path: Path) -> None:
    settings = parse({"method": "partitioned_hpo", **small(final="retrain", final_rounds=1)}).of(PartitionedHpo)
    assert [settings.whole(number, 3) for number in (1, 2, 3)] == [False, False, True]
    fresh = run_small(tmp_path / "a", final="retrain", final_rounds=1, learn="temperature")
    tuned = run_small(tmp_path / "b", final="finetune", final_rounds=1, learn="temperature")
    assert [len(o.results["measures"]["psi"]["rounds"]) for o in (fresh, tuned)] == [2, 2]
    assert not same(fresh.model, tuned.model)
    values = fresh.results["measures"]["psi"]["settings"][f"{OWN}psi"]
    settings_of_one = {**small(learn="temperature", chunks=1, psi=values), "num-server-rounds": 1}
    first = run("partitioned_hpo", tmp_path / "c", settings_of_one, clients=3)
    assert all(np.allclose(fresh.model[n], first.model[n], atol=0.05) for n in first.model)


# What is refused


@pytest.mark.parametrize(
    ("own", "words"),
    [
        ({"learn": "weight-decay"}, "through the weights alone"),
        ({"learn": "learning-rate"}, "through the weights alone"),
        ({"learn": "colours"}, "no hyperparameter 'colours'"),
        ({"learn": "temperature", "psi": "1,2"}, "has 2 values, and temperature has 1"),
        ({"shares": "1,2"}, "partitioned-hpo.shares has 2 numbers"),
    ],
)
def test_what_cannot_be_is_refused_before_the_run(own: dict[str, Value], words: str) -> None:
    with pytest.raises(SettingError, match=words):
        check_run({"method": "partitioned_hpo", **small(**own)}, 3)


@pytest.mark.parametrize("key", ["patience", "target"])
def test_a_run_does_not_end_before_the_network_is_trained_whole(key: str) -> None:
    with pytest.raises(SettingError, match=f"{key} = 1 may end .* too early: its last rounds train the network whole"):
        check_run({"method": "partitioned_hpo", **SMALL, key: 1, "partitioned-hpo.final": "finetune"}, 3)
    check_run({"method": "partitioned_hpo", **SMALL, key: 1, "partitioned-hpo.final": "full"}, 3)


def test_few_clients_statistics_and_robust_rules_are_refused() -> None:
    for more, clients, words in (
        ({}, 2, "3 chunks of clients"),
        ({"model.name": "resnet8", "model.norm": "batch"}, 3, "those of a part"),
        ({"robust.rule": "median"}, 3, "different partitions"),
    ):
        with pytest.raises(SettingError, match=words):
            check_run({"method": "partitioned_hpo", **SMALL, **more}, clients)


def test_a_reply_of_another_chunk_does_not_fit(tmp_path: Path) -> None:
    from fedwarm.core.payload import check_arrays

    strategy, stage = server(), Stage(1, "round", "train", (0, 1, 2))
    first, second = strategy.chunks.index(1), strategy.chunks.index(2)
    reply = client(second, tmp_path).round(strategy.instruct(stage, second))
    with pytest.raises(PayloadError, match="differ in their names"):
        check_arrays(reply.arrays, strategy.expected_of(stage, first, reply, strategy.expected(stage)))


def test_a_likelihood_of_its_own_is_what_is_trained_by(tmp_path: Path) -> None:
    strategy, stage = server(learn="noise-var"), Stage(1, "round", "train", (0, 1, 2))
    partition = strategy.chunks.index(1)
    reply = client(partition, tmp_path, learn="noise-var").round(strategy.instruct(stage, partition))
    plain = client(partition, tmp_path, learn="").round(server(learn="").instruct(stage, partition))
    assert reply.number("train-loss") > 10 * np.log(2 * np.pi) / 2 and plain.number("train-loss") < 4
    assert not torch.equal(*(torch.from_numpy(r.arrays[f"{PARTITION}1"]) for r in (reply, plain)))


# What survives


@pytest.mark.parametrize("mode", ["A", "B"])
def test_a_resumed_run_ends_in_the_same_model_and_psi(mode: str, tmp_path: Path) -> None:
    settings = small(mode=mode, learn="affine+temperature")
    whole = run("partitioned_hpo", tmp_path / "whole", settings, clients=3)
    run("partitioned_hpo", tmp_path / "part", {**settings, "num-server-rounds": 2}, clients=3)
    part = run("partitioned_hpo", tmp_path / "part", {**settings, "resume": True}, clients=3)
    assert same(part.model, whole.model) and part.results["measures"] == whole.results["measures"]


def test_more_rounds_are_refused_where_the_end_is_planned(tmp_path: Path) -> None:
    run("partitioned_hpo", tmp_path / "run", {**small(final="retrain"), "num-server-rounds": 2}, clients=3)
    with pytest.raises(SettingError, match="train the network whole"):
        run("partitioned_hpo", tmp_path / "run", {**small(final="retrain"), "resume": True}, clients=3)


def test_a_client_that_fails_is_left_out(tmp_path: Path) -> None:
    chunks = server().chunks
    failing: dict[str, Value] = {
        "faults.kind": "crash",
        "faults.rate": 1.0,
        "faults.clients": str(chunks.index(3)),
        "min-replies": 1,
    }
    done = run("partitioned_hpo", tmp_path / "run", {**SMALL, **failing, "num-server-rounds": 1}, clients=3)
    assert any(line["failure"] for line in done.ledger) and len(done.results["measures"]["psi"]["rounds"]) == 1
    assert any("no client trained partition 3" in note for note in done.results["notes"])


def test_the_server_measures_as_clients_do(tmp_path: Path) -> None:
    strategy, one = server(), client(0, tmp_path)
    told = one.evaluate(Payload("weights", {**strategy.arrays, **strategy.psi()}, {"round": 1}))
    held = strategy.predicting(one.network(strategy.arrays))
    assert told.metrics["correct-global"] == correct(held, one.real.test_images, one.real.test_labels)
    plain, turned = (predict(model, one.real.test_images) for model in (held.body, held))
    assert held.samples == 2 and not torch.allclose(plain.softmax(1), turned.exp())


# What settings choose


def test_who_scores_which_subnetwork_and_when() -> None:
    def scores(number: int = 2, **own: Any) -> list[int]:
        return [PartitionedHpo(**own).scores(chunk, number) for chunk in (1, 2, 3)]

    assert scores() == [-1, 1, 2] and scores(include_first=True) == [0, 1, 2] and scores(score="trained") == [1, 2, 3]
    assert scores(every=2) == [-1, 1, 2] and scores(3, every=2) == scores(learn="") == [-1] * 3
    assert PartitionedHpo(chunks=1, include_first=True).scores(1, 1) == -1


def test_when_the_network_is_trained_whole() -> None:
    assert [PartitionedHpo(final_rounds=last).whole_from(11) for last in (0, 3, 99)] == [7, 9, 1]
    assert [PartitionedHpo(final=end).whole_from(11) for end in ("retrain", "full")] == [7, 12]
    assert PartitionedHpo(chunks=1).whole_from(11) == 12


def test_missing_weights_are_the_first_ones_or_zeros() -> None:
    first = {"w": np.ones((30, 20), np.float32)}
    for defaults, chunks, value in (("initial", 3, 1), ("zeros", 3, 0), ("zeros", 1, 1)):
        layout = PartitionedHpo(defaults=defaults, chunks=chunks).layout(first, 0, False)
        assert (layout.subnetwork({"w": first["w"] + 1}, 0)["w"] == value).all()


def test_psi_is_scored_by_as_many_draws_as_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    strategy, draws, true = server(), list[int](), partitioned_hpo.gradient

    def gradient(*given: Any) -> Any:
        draws.append(given[6])
        return true(*given)

    monkeypatch.setattr(partitioned_hpo, "gradient", gradient)
    partition = strategy.chunks.index(2)
    client(partition, tmp_path, score_samples=3).round(strategy.instruct(Stage(1, "round", "train", (0, 1, 2)), partition))
    assert draws == [3]
