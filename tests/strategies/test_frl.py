"""FRL's votes by hand, what travels, and what liars can do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedwarm.api import Result
from fedwarm.catalogue import parse
from fedwarm.cli.export import export_run
from fedwarm.coding.orders import pack_order, places
from fedwarm.coding.packing import CodeError
from fedwarm.core.payload import Payload
from fedwarm.core.seeds import generator
from fedwarm.core.stages import Stage
from fedwarm.data import load_shard
from fedwarm.data.settings import Data
from fedwarm.flower.wire import from_records
from fedwarm.launch.finished import finished
from fedwarm.methods.frl import ORDERS
from fedwarm.methods.frl import Frl as Settings
from fedwarm.models import Model, build_model
from fedwarm.quantize.export import load_exported
from fedwarm.record.reading import read_run
from fedwarm.settings.fields import Value
from fedwarm.sparse.supermask import ScoreHook, Supermask
from fedwarm.training.loop import Plan, fit
from strategies.frl import Frl
from tests.runs import Outcome, run, same

SMALL: dict[str, Value] = {
    "num-server-rounds": 2, "local-epochs": 1, "data.max-examples": 24, "data.image-size": 8, "server-threads": 1,
    "model.name": "mlp", "fraction-train": 0.5,
}  # fmt: skip
CLIENTS = 4


def network(settings: dict[str, Value] = SMALL) -> Supermask:
    config = parse({"method": "frl", **settings})
    return config.of(Settings).network(build_model(config.of(Model), 10, 8, 0), 0)


def voted(orders: list[Any]) -> Frl:
    """A server of a network of four weights after one round with these orders."""
    server: Any = Frl(parse({"method": "frl"}))
    server.network = Supermask.of(torch.nn.Sequential(torch.nn.Linear(4, 1, bias=False)), 0.5, False, 0)
    stage = Stage(1, "round")
    server.begin(stage)
    for client, order in enumerate(orders):
        payload = Payload("words", {ORDERS: np.frombuffer(pack_order(np.array(order)), np.uint8)}, {"num-examples": 1 + client})
        server.check(stage, payload)
        server.absorb(stage, client, payload)
    server.finish(stage)
    return server  # type: ignore[no-any-return]


def order_of(server: Frl) -> list[int]:
    assert server.packed is not None
    found: list[int] = server.network.read(server.packed)["0.weight"].tolist()
    return found


def test_a_vote_by_hand() -> None:
    """Places add up to (3, 5, 4, 6); whoever holds more examples has no more of a say, and nobody's turn matters."""
    orders = [(0, 1, 2, 3), (0, 2, 1, 3), (3, 2, 1, 0)]
    server = voted(orders)
    assert server.votes["0.weight"].tolist() == [3, 5, 4, 6]
    assert order_of(server) == [0, 2, 1, 3]
    assert (server.arrays["0.weight"] != 0).tolist() == [[False, True, False, True]]
    for turned in ([2, 0, 1], [1, 2, 0]):
        assert same(voted([orders[i] for i in turned]).arrays, server.arrays)
    tied = voted([(0, 1, 2, 3), (3, 2, 1, 0)])
    assert order_of(tied) == [0, 1, 2, 3], "of equal sums the lower index comes first"


def test_every_client_has_the_same_mass() -> None:
    """So a liar of the right form moves a weight's sum by n - 1 at most."""
    draws, n = np.random.default_rng(0), 50
    honest, lie = places(draws.permutation(n)), places(draws.permutation(n))
    assert honest.sum() == lie.sum() == n * (n - 1) / 2 and np.abs(honest - lie).max() <= n - 1


@pytest.mark.parametrize("order", [(0, 0, 1, 2), (3, 3, 3, 3)])
def test_what_is_no_ranking_is_refused(order: Any) -> None:
    with pytest.raises(CodeError, match="does not have each of them once"):
        voted([order])


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return run("frl", tmp_path_factory.mktemp("frl") / "run", SMALL, clients=CLIENTS)


def test_two_rounds_by_hand(outcome: Outcome) -> None:
    torch.set_num_threads(1)
    config, found = parse({"method": "frl", **SMALL}), network()
    orders = found.first
    for number in (1, 2):
        votes = {name: np.zeros(theta.size, np.int64) for name, theta in found.weights.items()}
        for line in (each for each in outcome.ledger if each["stage"] == "round" and each["round"] == number):
            shard = load_shard(config.of(Data), 0, line["client"], CLIENTS)
            hook, plan = ScoreHook(found, found.scores(orders)), Plan.of(config.run, number=number)
            draws = generator(0, "train", number, line["client"])
            fit(build_model(config.of(Model), 10, 8, 0), shard.train_images, shard.train_labels, plan, draws, [hook])
            for name, order in found.orders(hook.scores).items():
                votes[name] += places(order)
        orders = {name: np.argsort(each, kind="stable") for name, each in votes.items()}
    assert same(outcome.model, found.state(orders))


def test_only_orders_travel(outcome: Outcome) -> None:
    """In the bytes of the formula, both ways and in evaluation, too; weights stay on either side."""
    found = network()
    assert found.bytes == 6144 * 13 // 8 + 320 * 9 // 8
    rounds = [line for line in outcome.ledger if line["stage"] == "round"]
    assert {(line["payload_bytes_down"], line["payload_bytes_up"]) for line in rounds} == {(found.bytes, found.bytes)}
    for message in (*outcome.asked("round"), *outcome.asked("evaluate"), *outcome.answered("round")):
        arrays = from_records(message.content).arrays
        assert {name: array.dtype for name, array in arrays.items()} == {ORDERS: np.uint8}
        found.read(arrays[ORDERS])


def test_a_resumed_run_is_the_same(outcome: Outcome, tmp_path: Path) -> None:
    run("frl", tmp_path / "part", {**SMALL, "num-server-rounds": 1}, clients=CLIENTS)
    whole = run("frl", tmp_path / "part", {**SMALL, "resume": True}, clients=CLIENTS)
    assert same(whole.model, outcome.model)


def test_the_model_is_an_ordinary_one(outcome: Outcome, tmp_path: Path) -> None:
    """Half of its weights are on; it predicts and is exported as others."""
    for name, theta in network().weights.items():
        assert np.count_nonzero(outcome.model[name]) == round(theta.size / 2)
    images = load_shard(parse({"method": "frl", **SMALL}).of(Data), 0, 0, CLIENTS).test_images
    model = finished(read_run(outcome.folder)).model
    told = Result(outcome.folder).predict(images)
    export_run(outcome.folder, 8, "torch", tmp_path / "model.safetensors")
    inputs = images.float() / 127.5 - 1
    with torch.no_grad():
        wanted, exported = model(inputs), load_exported(tmp_path / "model.safetensors")(inputs)
    np.testing.assert_allclose(exported.numpy(), wanted.numpy(), atol=0.05)
    assert len(np.asarray(told)) == len(images)


def test_one_client_s_order_is_the_next_one(tmp_path: Path) -> None:
    alone = run("frl", tmp_path / "run", {**SMALL, "num-server-rounds": 1}, clients=1)
    (reply,) = alone.answered("round")
    assert same(alone.model, network().state(network().read(from_records(reply.content).arrays[ORDERS])))


def test_with_all_weights_on_nothing_is_learned(tmp_path: Path) -> None:
    settings: dict[str, Value] = {**SMALL, "frl.density": 1.0}
    outcome = run("frl", tmp_path / "run", settings, clients=CLIENTS)
    assert same(outcome.model, {**network(settings).others, **network(settings).weights})


def test_poison_reverses_a_ranking(outcome: Outcome, tmp_path: Path) -> None:
    """Of the struck client alone; it is an order like others, and is counted."""
    settings: dict[str, Value] = {**SMALL, "num-server-rounds": 1, "fraction-train": 1.0}
    struck: dict[str, Value] = {"faults.kind": "poison", "faults.rate": 1.0, "faults.clients": "1"}
    honest, lied = (
        [
            from_records(reply.content).arrays[ORDERS]
            for reply in run("frl", tmp_path / name, each, clients=CLIENTS).answered("round")
        ]
        for name, each in (("honest", settings), ("lied", {**settings, **struck}))
    )
    found = network()
    for client in range(CLIENTS):
        one, other = found.read(honest[client]), found.read(lied[client])
        assert all(np.array_equal(order[::-1] if client == 1 else order, other[name]) for name, order in one.items())


@pytest.mark.parametrize(
    ("kind", "said"), [("truncated", "cannot be read"), ("wrong_shape", "expected uint8"), ("crash", "crash")]
)
def test_a_reply_that_is_none_is_left_out(kind: str, said: str, tmp_path: Path) -> None:
    settings: dict[str, Value] = {**SMALL, "num-server-rounds": 1, "fraction-train": 1.0, "min-replies": 1}
    struck: dict[str, Value] = {"faults.kind": kind, "faults.rate": 1.0, "faults.clients": "1"}
    outcome = run("frl", tmp_path / "run", {**settings, **struck}, clients=2)
    refused = [line["failure"] for line in outcome.ledger if line["stage"] == "round" and line["client"] == 1]
    assert outcome.results["complete"] and refused and all(said in why for why in refused)
