"""SCAFFOLD: its algebra, and what it is for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from fedwarm.core.told import joined, split
from fedwarm.flower.wire import from_records
from fedwarm.launch.preflight import check_run
from fedwarm.methods.scaffold import CONTROL, ControlVariate, control_after
from fedwarm.optimisers.sgd import SgdSettings, path
from fedwarm.settings.fields import SettingError, Value
from tests.runs import run, same

FAST: dict[str, Value] = {"num-server-rounds": 3, "local-epochs": 1, "data.max-examples": 40, "data.image-size": 16}
PLAIN: dict[str, Value] = {**FAST, "momentum": 0.0, "learning-rate": 0.05}


def test_the_first_round_of_equal_clients_is_fedavg(tmp_path: Path) -> None:
    """All control variates are zero in it, and all clients hold as many images."""
    one: dict[str, Value] = {**PLAIN, "num-server-rounds": 1, "data.partition": "iid"}
    scaffold, fedavg = run("scaffold", tmp_path / "scaffold", one), run("fedavg", tmp_path / "fedavg", one)
    assert same(scaffold.model, fedavg.model)


def test_the_control_variates_mean_is_the_servers(tmp_path: Path) -> None:
    """With everyone in every round, c is the mean of c_k, and each c_k is the mean gradient along the client's path."""
    outcome = run("scaffold", tmp_path / "run", PLAIN)
    sent = [split(from_records(m.content).arrays, CONTROL) for m in outcome.messages if m.metadata.message_type == "train"]
    replies = [split(from_records(r.content).arrays, CONTROL) for r in outcome.replies if r.metadata.message_type == "train"]
    own = [{name: np.zeros_like(a) for name, a in sent[0][1].items()} for _ in range(4)]
    for number in range(3):
        start, shared = sent[4 * number]
        for client, (after, told) in enumerate(replies[4 * number : 4 * number + 4]):
            steps = -(-40 // 32)
            for name in shared:
                new = own[client][name] - shared[name] + (start[name] - after[name]) / (steps * 0.05)
                assert np.allclose(told[name], shared[name] + new - own[client][name], atol=2e-5)
                own[client][name] = new
        for name in shared if number < 2 else ():
            assert np.allclose(sent[4 * number + 4][1][name], np.mean([c[name] for c in own], axis=0), atol=2e-5)


LOSSY: dict[str, Value] = {"faults.kind": "nan", "faults.rate": 0.3, "min-replies": 1}


def own_controls(folder: Path) -> list[dict[str, np.ndarray[Any, Any]]]:
    """What each client's control variate is, as far as the server has heard."""
    heard = json.loads((folder / "checkpoint" / "checkpoint.json").read_text())["facts"]["method"]["heard"]
    found = []
    for client in range(6):
        (place,) = (folder / "clients").glob(f"*/{client}")
        last = heard.get(str(client), 0)
        files = [file for kind in ("control-sent", "control") if (file := place / f"{kind}.{last}.safetensors").is_file()]
        found.append(load_file(files[0]) if last else {})
    return found


@pytest.mark.parametrize("method", ["scaffold", "scaffold_m"])
@pytest.mark.parametrize(
    "more",
    [
        LOSSY,
        {"codec": "stochastic-rounding", "stochastic-rounding.bits": 3},
        {"codec": "top-k", "top-k.residual": False, **LOSSY, "faults.kind": "truncated"},
        {"robust.clip-norm": 0.05},
        {"fraction-train": 0.5},
    ],
    ids=["lost replies", "rounded", "cut", "clipped", "sampled"],
)
def test_c_stays_the_mean_of_all_clients_own(method: str, more: dict[str, Value], tmp_path: Path) -> None:
    """Whatever is lost or changed on the way: what the server took counts at both, what it did not at neither."""
    settings: dict[str, Value] = {**FAST, "num-server-rounds": 5, "learning-rate": 0.05, "momentum": 0.0, "data.partition": "iid"}
    outcome = run(method, tmp_path / "run", {**settings, **more}, clients=6)
    shared = load_file(next((tmp_path / "run" / "checkpoint").glob("control.*.safetensors")))
    own = own_controls(tmp_path / "run")
    for name, c in shared.items():
        mean = np.sum([each[name] for each in own if each], axis=0) / 6
        assert np.abs(c).max() > 0 and np.allclose(c, mean, atol=1e-5 + 1e-4 * np.abs(c).max())
    if "faults.kind" in more:
        assert 0 < sum(bool(row["failure"]) for row in outcome.ledger) < 30


def test_a_lost_reply_is_as_if_the_client_had_not_been_asked(tmp_path: Path) -> None:
    settings: dict[str, Value] = {**FAST, **LOSSY, "num-server-rounds": 6, "learning-rate": 0.05, "momentum": 0.0}
    late = run("scaffold", tmp_path / "late", {**settings, "data.partition": "iid"}, clients=6)
    never = run("scaffold", tmp_path / "never", {**settings, "data.partition": "iid", "faults.kind": "crash"}, clients=6)
    assert same(late.model, never.model)


def test_a_codec_that_adds_noise_is_refused() -> None:
    with pytest.raises(SettingError, match="codec = 'dp-rec' cannot be used with method 'scaffold', whose control variate"):
        check_run({"method": "scaffold", "codec": "dp-rec"}, 4)


@pytest.mark.parametrize("rule", ["mean", "median"])
def test_the_server_steps_by_its_rate_and_by_the_share_that_replied(tmp_path: Path, rule: str) -> None:
    """x <- x + eta_g (agg(y_k) - x), c <- c + |S| / N (agg(c + c_k+ - c_k) - c), by the robust rule for both."""
    told: dict[str, Value] = {**FAST, "fraction-train": 0.5, "scaffold.server-learning-rate": 0.5, "robust.rule": rule}
    outcome = run("scaffold", tmp_path / "run", told, clients=6)
    sent = [from_records(m.content).arrays for m in outcome.messages if m.metadata.message_type == "train"]
    replies = [from_records(r.content).arrays for r in outcome.replies if r.metadata.message_type == "train"]
    assert len(sent) == 3 * 3
    join = np.mean if rule == "mean" else np.median
    for start, stop in ((0, 3), (3, 6)):
        for name, before in sent[start].items():
            change = join([reply[name] - before for reply in replies[start:stop]], axis=0)
            assert np.allclose(sent[stop][name], before + 0.5 * change, atol=1e-6)
    assert any(np.abs(sent[3][name]).max() > 0 for name in sent[3] if name.startswith("control/"))


def test_it_sends_twice_what_fedavg_sends(tmp_path: Path) -> None:
    scaffold, fedavg = run("scaffold", tmp_path / "scaffold", FAST), run("fedavg", tmp_path / "fedavg", FAST)
    assert scaffold.results["totals"]["bytes_up"] == 2 * fedavg.results["totals"]["bytes_up"]
    assert not any(name.startswith("control/") for name in scaffold.model)


def test_it_lessens_the_drift_of_unlike_clients(tmp_path: Path) -> None:
    """On clients of two classes each, the spread of the clients' models about their mean falls below FedAvg's."""
    unlike: dict[str, Value] = {**PLAIN, "num-server-rounds": 4, "local-epochs": 3, "data.partition": "pathological"}

    def spread(method: str) -> float:
        outcome = run(method, tmp_path / method, unlike, clients=5)
        replies = [
            split(from_records(r.content).arrays, CONTROL)[0] for r in outcome.replies if r.metadata.message_type == "train"
        ][-5:]
        mean = {name: np.mean([r[name] for r in replies], axis=0) for name in replies[0]}
        return float(sum(np.square(r[n] - mean[n]).sum() for r in replies for n in mean))

    assert spread("scaffold") < 0.8 * spread("fedavg")


def test_the_hook_adds_the_difference() -> None:
    model = torch.nn.Linear(2, 1, bias=False)
    model.weight.grad = torch.ones(1, 2)
    ControlVariate({"weight": torch.tensor([[0.5, -1.0]])}).gradient(model)
    assert torch.equal(model.weight.grad, torch.tensor([[1.5, 0.0]]))


def test_the_control_is_the_mean_gradient() -> None:
    one = {"w": torch.tensor([1.0])}
    found = control_after({"w": torch.tensor([0.3])}, {"w": torch.tensor([0.1])}, one, {"w": torch.tensor([0.6])}, 2.0)
    assert torch.allclose(found["w"], torch.tensor([0.4]))


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("steps", [1, 2, 10])
def test_the_path_is_as_long_as_a_constant_gradient_moves(steps: int, momentum: float) -> None:
    weight = torch.nn.Parameter(torch.zeros(1))
    optimiser = torch.optim.SGD([weight], lr=0.1, momentum=momentum)
    for _ in range(steps):
        weight.grad = torch.tensor([1.0])
        optimiser.step()
    assert path([0.1] * steps, momentum, SgdSettings()) == pytest.approx(-weight.item(), rel=1e-5)


def test_what_is_joined_comes_apart() -> None:
    model, control = {"a": np.ones(2)}, {"a": np.zeros(2)}
    assert split(joined(model, control, CONTROL), CONTROL) == (model, control)
