"""Tensors that nobody trains travel once, or never: what is sent, what is kept, and that no number of a run hangs on it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, Message
from safetensors.numpy import load_file
from safetensors.torch import save_file

from fedwarm.catalogue import parse
from fedwarm.core.arrays import from_module
from fedwarm.data.settings import Data
from fedwarm.data.shards import central_tests
from fedwarm.flower.wire import from_records
from fedwarm.launch.finished import finished, personal
from fedwarm.launch.preflight import check_run
from fedwarm.models import Model, build_model
from fedwarm.record.reading import read_run
from fedwarm.rounds.fleet import Fleet
from fedwarm.rounds.measuring import measuring
from fedwarm.rounds.server import BaseStrategy
from fedwarm.scopes import fixed_in
from fedwarm.settings import kinds
from fedwarm.settings.fields import SettingError, Value
from tests.runs import LOCAL, Outcome, action_of, run, same
from tests.sets import write_split

SMALL: dict[str, Value] = {
    "num-server-rounds": 2, "local-epochs": 1, "data.max-examples": 24, "server-threads": 1, "data.image-size": 16,
    "model.name": "lenet5", "learning-rate": 0.05,
}  # fmt: skip
HEAD, BODY = 4 * 10 * 85, 4 * (15_926 - 10 * 85)
PRIVATE: dict[str, Value] = {"dp-rec.bits": 3, "dp-rec.entropy": "seeded", "dp-rec.view": "local", **LOCAL}
APART = ("warmfed", "fedbn", "gen_fedsd", "fed_simclr", "quantization_robust")  # other models, or objectives of layers' weights
SEVERAL = ("ifca", "fedmix", "ocfl")
SCOPED = [n for n in kinds.METHODS.own() if n not in APART and "model.train" not in kinds.METHODS.load(n).refuses]


def start(path: Path, outputs: int = 10, **more: Any) -> str:
    save_file(build_model(Model(name="lenet5", **more), outputs, 16, 7).state_dict(), path)
    return str(path)


def give(patch: pytest.MonkeyPatch, outputs: int = 10) -> None:
    """Have every run start with the arrays of `start`."""
    begin, first = BaseStrategy._begin, ArrayRecord(build_model(Model(name="lenet5"), outputs, 16, 7).state_dict())
    patch.setattr(BaseStrategy, "_begin", lambda self, before, _: begin(self, before, first))


def sent(message: Message) -> dict[str, Any]:
    return from_records(message.content).arrays


def bytes_of(outcome: Outcome, stage: str, way: str) -> list[int]:
    return [entry[f"payload_bytes_{way}"] for entry in outcome.ledger if entry["stage"] == stage]


def test_what_follows_from_the_seed_never_travels(tmp_path: Path) -> None:
    outcome = run("fedavg", tmp_path / "run", {**SMALL, "model.train": "head"}, clients=2)
    for stage, ways in (("round", ("up", "down")), ("evaluate", ("down",))):
        assert all(bytes_of(outcome, stage, way) == [HEAD] * 4 for way in ways)
    assert not any(name.startswith("fixed/") for message in outcome.messages for name in sent(message))


def test_what_comes_of_a_file_is_sent_to_each_client_once(tmp_path: Path) -> None:
    given = {**SMALL, "model.train": "head", "model.weights": start(tmp_path / "w.safetensors")}
    outcome = run("fedavg", tmp_path / "run", given, clients=2)
    assert bytes_of(outcome, "round", "down") == [HEAD + BODY] * 2 + [HEAD] * 2
    assert bytes_of(outcome, "round", "up") == [HEAD] * 4 and bytes_of(outcome, "evaluate", "down") == [HEAD] * 4
    (kept,) = outcome.folder.glob("clients/*/all/fixed.0.safetensors")
    file = load_file(tmp_path / "w.safetensors")
    assert same(load_file(kept), {name: file[name] for name in load_file(kept)})
    assert all(np.array_equal(outcome.model[name], file[name]) for name in load_file(kept))


@pytest.mark.parametrize("scope", kinds.SCOPES)
@pytest.mark.parametrize("more", [{}, {"robust.rule": "median"}, {"optimiser": "adamw", "robust.clip-norm": 0.5}], ids=str)
def test_a_model_is_the_same_as_if_all_travelled(
    scope: str, more: dict[str, Value], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {**SMALL, **more, "model.train": scope, "model.weights": start(tmp_path / "w.safetensors")}
    outcome = run("fedavg", tmp_path / "run", given, clients=3)
    monkeypatch.setattr(BaseStrategy, "sends_all", True)
    other = run("fedavg", tmp_path / "other", given, clients=3)
    assert same(outcome.model, other.model) and outcome.results["final"] == other.results["final"]


@pytest.mark.parametrize("codec", ["stochastic-rounding", "top-k", "dp-rec"])
@pytest.mark.parametrize("scope", ["head", "lora"])
def test_a_codec_codes_what_is_trained_alone(codec: str, scope: str, tmp_path: Path) -> None:
    """So that a private one's noise is on no other number, and what is left out leaves more for these."""
    given = {**PRIVATE, **SMALL, "codec": codec, "model.train": scope, "model.weights": start(tmp_path / "w.safetensors")}
    outcome = run("fedavg", tmp_path / "run", given, clients=2)
    assert not any(entry["failure"] for entry in outcome.ledger)
    still = fixed_in(build_model(Model(name="lenet5", train="head"), 10, 16, 0)) if scope == "head" else frozenset[str]()
    file = load_file(tmp_path / "w.safetensors")
    assert outcome.model.keys() == file.keys() and all(np.array_equal(outcome.model[name], file[name]) for name in still)


@pytest.mark.parametrize("scope", ["head", "lora"])
def test_the_server_measures_the_whole_model(scope: str, tmp_path: Path) -> None:
    write_split(tmp_path / "set", "train", [k % 3 for k in range(36)])
    write_split(tmp_path / "set", "test", [k % 3 for k in range(9)])
    given: dict[str, Value] = {**SMALL, "data.name": str(tmp_path / "set"), "data.partition": "iid", "data.test": "central"}
    outcome = run("fedavg", tmp_path / "run", given, clients=2)
    config, model = parse({"method": "fedavg", **given}), finished(read_run(outcome.folder, ledger=False)).model
    found = measuring(config, 3).rows(model, *central_tests(config.of(Data), 0, 2))
    assert found.examples == 9 and outcome.results["final"]["global"]["accuracy"] == found.right / 9


@pytest.mark.parametrize("scope", ["bias", "lora"])
def test_bit_widths_densities_and_probes_are_of_the_whole_model(scope: str, tmp_path: Path) -> None:
    given: dict[str, Value] = {**SMALL, "evaluate.bit-widths": "8", "prune.densities": "0.5", "probe.linear": True}
    path = start(tmp_path / "w.safetensors")
    outcome = run("fedavg", tmp_path / "run", {**given, "model.train": scope, "model.weights": path}, clients=2)
    plain = {**given, "model.weights": str(outcome.folder / "model.safetensors"), "learning-rate": 1e-12}
    again = run("fedavg", tmp_path / "again", {**plain, "num-server-rounds": 1}, clients=2)
    assert same(again.model, outcome.model) and outcome.results["measures"] == again.results["measures"]


@pytest.mark.parametrize("name", SCOPED)
@pytest.mark.parametrize("scope", ["bias", "lora"])
def test_methods_train_in_scopes(name: str, scope: str, tmp_path: Path) -> None:
    given: dict[str, Value] = {**LOCAL, **SMALL, "model.train": scope}
    given |= {"model.weights": start(tmp_path / "w.safetensors")} if name not in SEVERAL else {}
    outcome = run(name, tmp_path / "run", given, clients=2)
    assert outcome.results["complete"] and not any(entry["failure"] for entry in outcome.ledger)
    if (outcome.folder / "model.safetensors").exists() and any("/" in name for name in outcome.model):
        assert all(name.startswith(("expert-", "trunk/")) for name in outcome.model), "models of several experts are whole"
    elif "model.weights" in given and (outcome.folder / "model.safetensors").exists():
        plain = build_model(Model(name="lenet5"), 10, 16, 7).state_dict()
        assert outcome.model.keys() == plain.keys()
        still = fixed_in(build_model(Model(name="lenet5", train=scope), 10, 16, 7)) if scope == "bias" else frozenset[str]()
        assert all(np.array_equal(outcome.model[n], plain[n].numpy()) for n in still)


@pytest.mark.parametrize("name", SEVERAL)
def test_methods_of_several_models_send_and_keep_them_whole(name: str, tmp_path: Path) -> None:
    outcome = run(name, tmp_path / "run", {**SMALL, "model.train": "head", "num-server-rounds": 1}, clients=2)
    whole = build_model(Model(name="lenet5"), 10, 16, 0).state_dict().keys()
    assert {name.partition("/")[2] for name in outcome.model} == whole
    assert {name.rpartition("/")[2] for name in sent(outcome.asked("round")[0])} == whole


def test_adapters_leave_as_a_model_of_the_architecture(tmp_path: Path) -> None:
    given = {**SMALL, "model.train": "lora", "lora.rank": 2, "model.weights": start(tmp_path / "w.safetensors")}
    outcome = run("fedavg", tmp_path / "run", {**given, "learning-rate": 0.2}, clients=2)
    names = sent(outcome.asked("round")[-1])
    assert any(name.endswith("lora_up") for name in names) and not any(name.endswith("lora_up") for name in outcome.model)
    found = finished(read_run(outcome.folder, ledger=False)).model
    assert same(from_module(found), outcome.model)
    assert not same(outcome.model, load_file(tmp_path / "w.safetensors"))
    again = run("fedavg", tmp_path / "again", {**SMALL, "model.weights": str(outcome.folder / "model.safetensors")}, clients=2)
    assert same(sent(again.asked("round")[0]), outcome.model)


@pytest.mark.parametrize("scope", ["head", "lora"])
@pytest.mark.parametrize("method", ["pfedsd", "fedavg_ft"])
def test_a_client_s_own_model_is_whole(method: str, scope: str, tmp_path: Path) -> None:
    given = {**SMALL, "model.train": scope, "model.weights": start(tmp_path / "w.safetensors")}
    outcome = run(method, tmp_path / "run", given, clients=2)
    own = from_module(personal(read_run(outcome.folder, ledger=False), 1).model)
    assert own.keys() == outcome.model.keys() and not same(own, outcome.model)
    if scope == "head":
        still = fixed_in(build_model(Model(name="lenet5", train="head"), 10, 16, 0))
        assert all(np.array_equal(own[name], outcome.model[name]) for name in still)


class Losing:
    """What the clients of a run keep of all is gone when the third is asked for a round."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.asked = folder, 0

    def __call__(self, message: Message) -> None:
        self.asked += not message.metadata.reply_to_message_id and action_of(message) == "round"
        if self.asked == 3:
            self.asked += 1
            for folder in self.folder.glob("clients/*/all"):
                shutil.rmtree(folder)


def test_a_client_that_lost_them_is_sent_them_again(tmp_path: Path) -> None:
    given = {**SMALL, "model.train": "head", "model.weights": start(tmp_path / "w.safetensors"), "num-server-rounds": 3}
    whole = run("fedavg", tmp_path / "whole", given, clients=2)
    outcome = run("fedavg", tmp_path / "run", given, clients=2, listen=Losing(tmp_path / "run"))
    failures = [entry["failure"] for entry in outcome.ledger if entry["failure"]]
    assert failures and all("does not hold the layers that are not trained" in each for each in failures)
    assert same(outcome.model, whole.model)


@pytest.mark.parametrize("scope", ["head", "lora"])
def test_a_run_from_given_arrays_is_one_from_a_file_of_them(scope: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Flower's own way to give a start; what a client lost is not drawn instead."""
    given, path = {**SMALL, "model.train": scope, "num-server-rounds": 3}, start(tmp_path / "w.safetensors")
    whole = run("fedavg", tmp_path / "whole", {**given, "model.weights": path}, clients=2)
    give(monkeypatch)
    outcome = run("fedavg", tmp_path / "run", given, clients=2, listen=Losing(tmp_path / "run"))
    assert [entry["failure"] for entry in outcome.ledger if entry["failure"]] and same(outcome.model, whole.model)


@pytest.mark.parametrize(
    ("method", "outputs", "more"),
    [
        ("warmfed", 10, {"warmfed.synthetic-ratio": 0.0, "warmfed.selection": "never", "warmfed.protocol": "five-round"}),
        ("fed_simclr", 128, {}),
    ],
)
def test_given_arrays_are_a_start_where_the_whole_model_travels(
    method: str, outputs: int, more: dict[str, Value], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {**SMALL, "model.train": "lora", "num-server-rounds": 1, **more}
    path = start(tmp_path / "w.safetensors", outputs)
    whole = run(method, tmp_path / "whole", {**given, "model.weights": path}, clients=2)
    give(monkeypatch, outputs)
    outcome = run(method, tmp_path / "run", given, clients=2)
    assert not any(entry["failure"] for entry in outcome.ledger) and same(outcome.model, whole.model)


@pytest.mark.parametrize(
    ("method", "why"),
    [
        ("frl", "initial_arrays cannot be used with method 'frl', which draws its weights from the seed; leave them out"),
        ("ocfl", "initial_arrays are not such as method 'ocfl' starts with: arrays differ in their names: .*; leave them out"),
        ("warmfed", "initial_arrays do not reach the first model that clients of method 'warmfed' build .* by model.weights"),
        ("partitioned_hpo", "initial_arrays do not reach the first model"),
        ("local_only", "initial_arrays do not reach the first model"),
        ("fed_simclr", r"initial_arrays are not such as .*: 11.weight is float32\[10, 84\], expected float32\[128, 84\]"),
    ],
)
def test_given_arrays_that_no_start_can_be_made_of_are_refused(
    method: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    give(monkeypatch)
    with pytest.raises(SettingError, match=f"^{why}"):
        run(method, tmp_path / "run", {**SMALL, "num-server-rounds": 1}, clients=2)


@pytest.mark.parametrize(("scope", "count"), [("all", 1), ("head", 2)])
def test_a_model_is_built_again_only_where_something_is_not_trained(
    scope: str, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = []

    def counted(*given: Any, **named: Any) -> torch.nn.Module:
        built.append(given)
        return build_model(*given, **named)

    monkeypatch.setattr("fedwarm.rounds.method.build_model", counted)
    strategy = BaseStrategy(parse({"method": "fedavg", **SMALL, "model.train": scope}))
    strategy.fleet = Fleet((), tuple("0123456789"), 16)
    strategy._begin(None, None)
    assert len(built) == count


@pytest.mark.parametrize("scope", ["head", "lora"])
def test_a_resumed_run_ends_in_the_same_model(scope: str, tmp_path: Path) -> None:
    path = start(tmp_path / "w.safetensors")
    given = {**SMALL, "model.train": scope, "model.weights": path, "num-server-rounds": 3}
    whole = run("fedavg", tmp_path / "whole", given, clients=2)
    run("fedavg", tmp_path / "parts", {**given, "num-server-rounds": 1}, clients=2)
    parts = run("fedavg", tmp_path / "parts", {**given, "resume": True}, clients=2)
    assert same(parts.model, whole.model) and parts.results["final"] == whole.results["final"]
    assert not any(name.startswith("fixed/") for message in parts.messages for name in sent(message))


def test_frozen_parameters_of_an_architecture_do_not_travel(tmp_path: Path) -> None:
    outcome = run("fedavg", tmp_path / "run", {**SMALL, "model.name": "tests.fedwarm.rounds.test_fixed:half_frozen"}, clients=2)
    assert {*sent(outcome.asked("round")[0])} == {"2.weight", "2.bias"} and len(outcome.model) == 4


def test_what_is_drawn_apart_from_the_seed_travels(tmp_path: Path) -> None:
    given = {**SMALL, "model.name": "tests.fedwarm.rounds.test_fixed:drawn_otherwise", "model.train": "head"}
    outcome = run("fedavg", tmp_path / "run", given, clients=2)
    (kept,) = outcome.folder.glob("clients/*/all/fixed.0.safetensors")
    assert same(load_file(kept), {"0.directions": outcome.model["0.directions"]})
    assert len(bytes_of(outcome, "round", "down")) == 4 and len({*bytes_of(outcome, "round", "down")}) == 2


class Directions(torch.nn.Module):
    def __init__(self, image_size: int) -> None:
        super().__init__()
        self.register_buffer("directions", torch.from_numpy(np.random.default_rng().standard_normal((3 * image_size**2, 8))))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cos(x.flatten(1) @ self.get_buffer("directions").float())


def drawn_otherwise(classes: int, image_size: int) -> torch.nn.Module:
    return torch.nn.Sequential(Directions(image_size), torch.nn.Linear(8, classes))


def half_frozen(classes: int, image_size: int) -> torch.nn.Module:
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * image_size**2, 8), torch.nn.Linear(8, classes))
    net[1].requires_grad_(False)
    return net


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"method": "ssfl", "model.train": "head"}, "which chooses what is trained itself"),
        ({"method": "fedsparse", "model.train": "lora"}, "which drops groups of the weights that are trained"),
        ({"method": "fedbn", "model.norm": "batch", "model.name": "resnet8", "model.train": "head"}, "no such tensors that are"),
        ({"method": "fedavg", "objective": "qat", "model.train": "lora"}, "trains layers' weights, and"),
        ({"method": "fedavg", "model.train": "lora", "lora.rank": 400}, "larger than its adapter of rank 400; lower lora.rank"),
        ({"method": "fedavg", "model.name": "logistic", "model.train": "bias"}, "finds no bias outside of the last layer"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_refused_in_a_line(given: dict[str, Value], why: str) -> None:
    with pytest.raises(SettingError) as error:
        check_run(given, 2)
    assert why in str(error.value) and "\n" not in str(error.value)
