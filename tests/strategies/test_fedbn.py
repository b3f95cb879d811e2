"""FedBN against its closed form: what travels is averaged, what does not stays with its client, through resumed runs, too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from fedwarm.catalogue import parse
from fedwarm.core.arrays import WeightedMean, from_module
from fedwarm.core.seeds import generator
from fedwarm.data import load_shard
from fedwarm.data.settings import Data
from fedwarm.flower.wire import from_records
from fedwarm.launch.finished import personal
from fedwarm.launch.preflight import check_run
from fedwarm.methods.fedbn import FIRST, FedBn
from fedwarm.models import Model, build_model
from fedwarm.norms import normalising
from fedwarm.record.reading import read_run
from fedwarm.settings.fields import SettingError, Value
from fedwarm.training.evaluate import correct
from fedwarm.training.loop import Plan, fit
from tests.runs import Outcome, run, same

SMALL: dict[str, Value] = {
    "num-server-rounds": 2, "local-epochs": 1, "data.max-examples": 24, "server-threads": 1, "data.image-size": 16,
    "model.name": "resnet8", "model.norm": "batch", "learning-rate": 0.05,
}  # fmt: skip
CLIENTS = 2


def first() -> dict[str, Any]:
    return from_module(build_model(Model(name="resnet8", norm="batch"), 10, 16, 0))


def kept(outcome: Outcome, client: int, number: int) -> dict[str, torch.Tensor]:
    (path,) = outcome.folder.glob(f"clients/*/{client}/norms.{number}.safetensors")
    return load_file(path)


def trained(start: dict[str, Any], client: int, number: int) -> tuple[torch.nn.Module, int]:
    """A client's training by hand."""
    torch.set_num_threads(1)
    config = parse({"method": "fedbn", **SMALL})
    shard = load_shard(config.of(Data), 0, client, CLIENTS)
    model = build_model(config.of(Model), 10, 16, 0, {name: torch.from_numpy(np.array(a)) for name, a in start.items()})
    draws = generator(0, "train", number, client)
    fit(model, shard.train_images, shard.train_labels, Plan.of(config.run, number=number), draws)
    return model, len(shard.train_labels)


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return run("fedbn", tmp_path_factory.mktemp("fedbn") / "run", SMALL, clients=CLIENTS)


def test_two_rounds_by_hand(outcome: Outcome) -> None:
    names = {*normalising(build_model(Model(name="resnet8", norm="batch"), 10, 16, 0))}
    shared = {name: array for name, array in first().items() if name not in names}
    own = [{name: array for name, array in first().items() if name in names} for _ in range(CLIENTS)]
    for number in (1, 2):
        mean = WeightedMean()
        for client in range(CLIENTS):
            model, weight = trained({**shared, **own[client]}, client, number)
            after = from_module(model)
            own[client] = {name: after[name] for name in names}
            mean.add({name: array for name, array in after.items() if name not in names}, weight)
            assert same({n: t.numpy() for n, t in kept(outcome, client, number).items()}, own[client])
        shared = mean.result()
    assert same(outcome.model, shared)
    assert not same(own[0], own[1])
    measured = outcome.results["rounds"][-1]["personal"]["per_client"]
    for client in range(CLIENTS):
        config = parse({"method": "fedbn", **SMALL})
        shard = load_shard(config.of(Data), 0, client, CLIENTS)
        state = {name: torch.from_numpy(np.array(a)) for name, a in {**shared, **own[client]}.items()}
        right = correct(build_model(config.of(Model), 10, 16, 0, state), shard.test_images, shard.test_labels)
        assert measured[client] == right / len(shard.test_labels)


def test_no_tensor_of_normalisation_travels_and_the_ledger_is_fewer_by_their_bytes(outcome: Outcome, tmp_path: Path) -> None:
    names = normalising(build_model(Model(name="resnet8", norm="batch"), 10, 16, 0))
    for message in outcome.messages + [m for m in outcome.replies if m.has_content()]:
        assert not {*from_records(message.content).arrays} & {*names}
    plain = run("fedavg", tmp_path / "plain", SMALL, clients=CLIENTS)
    fewer = sum(first()[name].nbytes for name in names)
    assert fewer == 4 * 960
    rows = [
        [(e["round"], e["stage"], e["client"], e["payload_bytes_down"], e["payload_bytes_up"]) for e in each.ledger]
        for each in (plain, outcome)
    ]
    assert len(rows[0]) == len(rows[1]) > 0
    for (*at, down, up), (*there, less_down, less_up) in zip(*rows, strict=True):
        assert at == there and down - less_down == (fewer if down else 0) and up - less_up == (fewer if up else 0)


def test_one_client_is_fedavg_bit_for_bit(tmp_path: Path) -> None:
    own, plain = (run(method, tmp_path / method, SMALL, clients=1) for method in ("fedbn", "fedavg"))
    assert same(own.model, {name: plain.model[name] for name in own.model})
    assert same({n: t.numpy() for n, t in kept(own, 0, 2).items()}, {n: plain.model[n] for n in plain.model.keys() - own.model})
    (mine,), (theirs,) = (
        [r[k]["per_client"] for r in o.results["rounds"][-1:]] for o, k in ((own, "personal"), (plain, "global"))
    )
    assert mine == theirs


def test_statistics_alone_may_stay(tmp_path: Path) -> None:
    found = run("fedbn", tmp_path / "run", {**SMALL, "num-server-rounds": 1, "fedbn.keep": "statistics"}, clients=CLIENTS)
    assert first().keys() - found.model.keys() == kept(found, 0, 1).keys()
    assert {name.rpartition(".")[2] for name in kept(found, 0, 1)} == {"running_mean", "running_var"}


def test_a_file_of_weights_is_read_at_the_server_alone(tmp_path: Path) -> None:
    """Its kept tensors are sent to a client until it has trained; the client that is asked in the second round has its own."""
    path = tmp_path / "w.safetensors"
    state = build_model(Model(name="resnet8", norm="batch"), 10, 16, 7).state_dict()
    save_file({name: tensor + 0.25 if "running" in name else tensor for name, tensor in state.items()}, path)
    outcome = run("fedbn", tmp_path / "run", {**SMALL, "model.weights": str(path)}, clients=CLIENTS)
    told = [any(name.startswith(FIRST) for name in from_records(m.content).arrays) for m in outcome.asked("round")]
    assert told == [True, True, False, False]
    names = normalising(build_model(Model(name="resnet8", norm="batch"), 10, 16, 0))
    sent = from_records(outcome.asked("round")[0].content).arrays
    assert all(np.array_equal(sent[f"{FIRST}/{name}"], load_file(path)[name].numpy()) for name in names)


def test_the_model_of_a_client_is_kept_for_use(outcome: Outcome) -> None:
    found = personal(read_run(outcome.folder, ledger=False), 1)
    expected = {**{n: torch.from_numpy(a) for n, a in outcome.model.items()}, **kept(outcome, 1, 2)}
    assert all(torch.equal(found.model.state_dict()[name], tensor) for name, tensor in expected.items())


def test_what_has_no_such_layers_is_refused() -> None:
    for given in ({"model.name": "lenet5"}, {"model.name": "resnet8", "fedbn.keep": "statistics"}):
        with pytest.raises(SettingError, match=r"fedbn.keep = '.*' finds no such tensors.*model.norm = 'batch'"):
            check_run({"method": "fedbn", **given}, 2)
    with pytest.raises(SettingError, match="measures clients' own models, and codec = 'dp-rec' hides"):
        check_run({"method": "fedbn", "codec": "dp-rec"}, 2)
    group = build_model(Model(name="resnet8"), 3, 16, 0)
    assert len(FedBn().kept(group)) == 2 * 7
