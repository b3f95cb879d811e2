"""FedGELA in whole runs: what travels, what it is without its scale, clients' own models, and a resumed run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from fedwarm.catalogue import parse
from fedwarm.core.arrays import from_module
from fedwarm.core.seeds import generator
from fedwarm.data import load_shard
from fedwarm.data.settings import Data
from fedwarm.flower.wire import from_records
from fedwarm.launch.finished import personal
from fedwarm.methods.fedgela import shares_of
from fedwarm.models import Model, build_model
from fedwarm.record.reading import read_run
from fedwarm.settings.fields import Value
from fedwarm.training.evaluate import correct
from fedwarm.training.loop import fit
from fedwarm.training.plan import Plan
from tests.runs import run, same
from tests.sets import write_split

SMALL: dict[str, Value] = {
    "num-server-rounds": 2, "local-epochs": 1, "data.max-examples": 40, "data.image-size": 8, "model.name": "mlp",
    "data.partition": "pathological", "learning-rate": 0.05, "server-threads": 1,
}  # fmt: skip
PRIVATE: dict[str, Value] = {"privacy": "dp-sgd", "fedgela.local": False}
CODED: dict[str, Value] = {"codec": "dp-rec", "dp-rec.bits": 3, "dp-rec.entropy": "seeded"}
HEAD = ("3.weight", "3.bias")


def test_a_round_by_hand(tmp_path: Path) -> None:
    """One client's reply is the body of a model whose head was scaled; the server's mean of one is that body."""
    given = {**SMALL, "num-server-rounds": 1}
    outcome = run("fedgela", tmp_path / "run", given, clients=1)
    config = parse({"method": "fedgela", **given})
    shard = load_shard(config.of(Data), 0, 0, 1)
    model = build_model(config.of(Model), 10, 8, 0)
    before, shares = from_module(model), shares_of(shard.train_labels, 10)
    with torch.no_grad():
        model.get_parameter("3.weight").mul_(shares.float()[:, None])
    fit(model, shard.train_images, shard.train_labels, Plan.of(config.run), generator(0, "train", 1, 0))
    assert same(outcome.model, {**from_module(model), **{name: before[name] for name in HEAD}})


def test_only_the_body_travels_and_no_client_tells_its_counts_by_it(tmp_path: Path) -> None:
    outcome = run("fedgela", tmp_path / "run", {**SMALL, "data.share-class-counts": False}, clients=2)
    body = 4 * (3 * 64 * 32 + 32)
    rounds = [entry for entry in outcome.ledger if entry["stage"] == "round"]
    assert [(e["payload_bytes_up"], e["payload_bytes_down"]) for e in rounds] == [(body, body)] * 4
    for message in (*outcome.asked("round"), *outcome.answered("round"), *outcome.asked("evaluate")):
        payload = from_records(message.content)
        assert {*payload.arrays} == {"1.weight", "1.bias"} and not {"counts", "shares"} & {*payload.facts}


def test_without_the_scale_it_is_fedavg_below_the_fixed_head(tmp_path: Path) -> None:
    given = {**SMALL, "num-server-rounds": 3, "fraction-train": 0.5}
    plain = run("fedavg", tmp_path / "plain", {**given, "model.head": "simplex"})
    outcome = run("fedgela", tmp_path / "run", {**given, "fedgela.local": False})
    assert same(outcome.model, plain.model) and outcome.results["final"] == plain.results["final"]
    assert not same(run("fedgela", tmp_path / "other", given).model, plain.model)


def test_clients_that_train_together_have_each_their_own_scale(tmp_path: Path) -> None:
    alone = run("fedgela", tmp_path / "alone", {**SMALL, "cohort": 0}, clients=2)
    together = run("fedgela", tmp_path / "together", {**SMALL, "cohort": 2}, clients=2)
    assert not any("one after another" in note for note in together.results["notes"])
    assert all(np.allclose(together.model[name], array, atol=1e-5) for name, array in alone.model.items())


def test_equal_counts_are_the_same_run_as_no_scale(tmp_path: Path) -> None:
    write_split(tmp_path / "set", "train", [k % 3 for k in range(36)])
    write_split(tmp_path / "set", "test", [k % 3 for k in range(9)])
    given = {**SMALL, "data.name": str(tmp_path / "set"), "data.partition": "iid", "data.max-examples": 1000}
    found = [run("fedgela", tmp_path / f"{local}", {**given, "fedgela.local": local}, clients=1) for local in (True, False)]
    assert same(found[0].model, found[1].model)


@pytest.mark.parametrize("absent", ["kept", "masked"])
def test_a_client_s_own_model_is_kept_and_measured(absent: str, tmp_path: Path) -> None:
    outcome = run("fedgela", tmp_path / "run", {**SMALL, "fedgela.absent": absent}, clients=2)
    config = parse({"method": "fedgela", **SMALL})
    for client, share in enumerate(outcome.results["rounds"][-1]["personal"]["per_client"]):
        shard = load_shard(config.of(Data), 0, client, 2)
        shares = shares_of(shard.train_labels, 10)
        model = personal(read_run(outcome.folder), client).model
        assert share == correct(model, shard.test_images, shard.test_labels) / len(shard.test_labels)
        own = from_module(model)
        assert ((own["3.weight"] == 0).all(1) == (shares == 0).numpy()).all()
        assert ((own["3.bias"] < 0) == ((shares == 0).numpy() & (absent == "masked"))).all()
        assert all((own[name] == outcome.model[name]).all() for name in own.keys() - {*HEAD})


def test_a_resumed_run_ends_in_the_same_models(tmp_path: Path) -> None:
    whole = run("fedgela", tmp_path / "whole", {**SMALL, "num-server-rounds": 3}, clients=2)
    run("fedgela", tmp_path / "parts", {**SMALL, "num-server-rounds": 1}, clients=2)
    parts = run("fedgela", tmp_path / "parts", {**SMALL, "num-server-rounds": 3, "resume": True}, clients=2)
    assert same(parts.model, whole.model) and parts.results["final"] == whole.results["final"]
    assert same(*(from_module(personal(read_run(o.folder), 1).model) for o in (parts, whole)))


@pytest.mark.parametrize(
    "more", [{"objective": "qat"}, {"objective": "class-weighted"}, {"model.train": "lora"}, PRIVATE, CODED], ids=str
)
def test_what_it_goes_together_with(more: dict[str, Value], tmp_path: Path) -> None:
    given = {**SMALL, "mlp.width": 64, "lora.rank": 2} if "model.train" in more else SMALL
    outcome = run("fedgela", tmp_path / "run", {**given, **more}, clients=2)
    plain = build_model(Model(name="mlp", head="simplex"), 10, 8, 0).state_dict() if given is SMALL else {}
    assert outcome.results["complete"] and not any(entry["failure"] for entry in outcome.ledger)
    assert all((outcome.model[name] == plain[name].numpy()).all() for name in HEAD if plain)
