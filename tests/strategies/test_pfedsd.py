"""pFedSD against its closed form: each round worked out by hand, and its limits, which are FedAvg."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from fedwarm.catalogue import parse
from fedwarm.core.arrays import WeightedMean, from_module
from fedwarm.core.seeds import generator
from fedwarm.data import load_shard
from fedwarm.data.settings import Data
from fedwarm.launch.preflight import check_run
from fedwarm.models import Model, build_model, to_input
from fedwarm.settings.fields import SettingError, Value
from fedwarm.training.evaluate import correct
from tests.runs import run, same

SMALL: dict[str, Value] = {
    "num-server-rounds": 3, "local-epochs": 2, "data.max-examples": 40, "data.image-size": 8, "model.name": "logistic",
    "learning-rate": 0.05, "momentum": 0.0, "batch-size": 16, "server-threads": 1,
}  # fmt: skip
CLIENTS, WEIGHT, TEMPERATURE = 2, 0.7, 2.0
SETTINGS: dict[str, Value] = {**SMALL, "pfedsd.weight": WEIGHT, "pfedsd.temperature": TEMPERATURE}


def trained(start: dict[str, np.ndarray], teacher: torch.nn.Module | None, client: int, number: int) -> torch.nn.Module:
    """A client's round in plain steps: CE + lambda T^2 sum_c p log(p / q), with p the teacher's softened answers."""
    config = parse({"method": "pfedsd", **SETTINGS})
    shard = load_shard(config.of(Data), 0, client, CLIENTS)
    model = build_model(config.of(Model), 10, 8, 0, {name: torch.from_numpy(array.copy()) for name, array in start.items()})
    draws, x, y = generator(0, "train", number, client), to_input(shard.train_images), shard.train_labels
    for _ in range(2):
        for rows in torch.randperm(len(y), generator=draws).split(16):
            logits = model(x[rows])
            loss = torch.nn.functional.cross_entropy(logits, y[rows])
            if teacher is not None:
                with torch.no_grad():
                    p = torch.softmax(teacher(x[rows]) / TEMPERATURE, 1)
                q = torch.softmax(logits / TEMPERATURE, 1)
                loss = loss + WEIGHT * TEMPERATURE**2 * (p * (p.log() - q.log())).sum(1).mean()
            gradients = torch.autograd.grad(loss, list(model.parameters()))
            with torch.no_grad():
                for parameter, gradient in zip(model.parameters(), gradients, strict=True):
                    parameter -= 0.05 * gradient
    return model


def test_rounds_are_those_worked_out_by_hand(tmp_path: Path) -> None:
    """Models, their average and the personal accuracies, over three rounds."""
    torch.set_num_threads(1)
    outcome = run("pfedsd", tmp_path / "run", SETTINGS, clients=CLIENTS)
    weights = from_module(build_model(Model(name="logistic"), 10, 8, 0))
    own: list[torch.nn.Module | None] = [None] * CLIENTS
    for number in (1, 2, 3):
        mean = WeightedMean()
        for client in range(CLIENTS):
            own[client] = trained(weights, own[client], client, number)
            mean.add(from_module(own[client]), len(load_shard(parse(SETTINGS).of(Data), 0, client, CLIENTS).train_labels))
        weights = mean.result()
        shares = {r["round"]: r for r in outcome.results["rounds"]}[number]["personal"]["per_client"]
        for client, model in enumerate(own):
            assert model is not None
            shard = load_shard(parse(SETTINGS).of(Data), 0, client, CLIENTS)
            assert shares[client] == correct(model, shard.test_images, shard.test_labels) / len(shard.test_labels)
    for name, array in outcome.model.items():
        assert np.allclose(array, weights[name], atol=1e-6)
    for client, model in enumerate(own):
        (path,) = outcome.folder.glob(f"clients/*/{client}/personal.3.safetensors")
        assert model is not None
        assert all(torch.allclose(tensor, model.state_dict()[name], atol=1e-6) for name, tensor in load_file(path).items())


def test_without_weight_and_in_its_first_round_it_is_fedavg_bit_for_bit(tmp_path: Path) -> None:
    plain = run("fedavg", tmp_path / "plain", SMALL, clients=CLIENTS)
    bare = run("pfedsd", tmp_path / "bare", {**SMALL, "pfedsd.weight": 0.0}, clients=CLIENTS)
    assert same(plain.model, bare.model)
    one: dict[str, Value] = {**SMALL, "num-server-rounds": 1}
    first = [run(method, tmp_path / f"one-{method}", one, clients=CLIENTS).model for method in ("fedavg", "pfedsd")]
    assert same(*first)
    assert plain.results["totals"]["bytes_up"] == bare.results["totals"]["bytes_up"]


def test_private_training_is_refused() -> None:
    with pytest.raises(SettingError, match="learns from a batch's answers of an earlier model, and no private step covers that"):
        check_run({"method": "pfedsd", "privacy": "dp-sgd"}, 4)


def test_a_task_whose_outputs_answer_nothing_is_refused() -> None:
    with pytest.raises(
        SettingError, match="method = 'pfedsd' works on a model's answers alone, and task = 'contrast' gives none"
    ):
        check_run({**SMALL, "method": "pfedsd", "task": "contrast"}, CLIENTS)
