"""Models from elsewhere in whole runs: batch normalisation, dropout and weights from a file that the server alone has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from fedwarm.core.arrays import from_tensors
from fedwarm.flower.wire import from_records
from fedwarm.models import Model, build_model
from fedwarm.settings.fields import Value
from tests.runs import Outcome, run, same

CODE = '''
from torch import nn

def make(classes: int, image_size: int) -> nn.Module:
    """A convolution, batch normalisation with its counter, dropout."""
    layers = [nn.Conv2d(3, 6, 3, 2), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Dropout(0.3)]
    return nn.Sequential(*layers, nn.Linear(24, classes))
'''
SMALL: dict[str, Value] = {
    "model.name": "somebodys_layers:make", "num-server-rounds": 2, "local-epochs": 1, "data.max-examples": 24,
    "data.image-size": 12, "server-threads": 1,
}  # fmt: skip
STATISTICS = ("1.running_mean", "1.running_var")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "somebodys_layers.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)


def first(settings: Model = Model(name="somebodys_layers:make"), classes: int = 10, seed: int = 0) -> dict[str, Any]:  # noqa: B008
    return build_model(settings, classes, 12, seed).state_dict()


def test_statistics_are_averaged_by_default(tmp_path: Path) -> None:
    outcome = run("fedavg", tmp_path / "run", {**SMALL, "num-server-rounds": 1}, clients=2)
    sent = [from_records(reply.content) for reply in outcome.answered("round")]
    assert all(payload.arrays.keys() == first().keys() for payload in sent), "no counter travels"
    weights = [payload.number("num-examples") for payload in sent]
    for name in STATISTICS:
        mean = sum(w * p.arrays[name].astype(float) for w, p in zip(weights, sent, strict=True)) / sum(weights)
        assert outcome.model[name] == pytest.approx(mean, rel=1e-6) and not same({"": outcome.model[name]}, {"": first()[name]})


def test_frozen_statistics_are_those_of_the_start(tmp_path: Path) -> None:
    outcome = run("fedavg", tmp_path / "run", {**SMALL, "model.statistics": "frozen"}, clients=2)
    start = from_tensors(first())
    assert all((outcome.model[name] == start[name]).all() for name in STATISTICS)
    assert (outcome.model["1.weight"] != start["1.weight"]).any()


def pretrained(tmp_path: Path) -> Outcome:
    """A run from a trainer's file with a parallel wrapper's names and other classes, which is gone before clients train."""
    state = first(classes=4, seed=7)
    counter = {"module.1.num_batches_tracked": torch.tensor(5)}
    path = tmp_path / "w.pt"
    torch.save({"epoch": 3, "state_dict": {**{f"module.{name}": tensor for name, tensor in state.items()}, **counter}}, path)

    def gone(message: Any) -> None:
        if message.metadata.message_type == "train":
            path.unlink(missing_ok=True)

    outcome = run("fedavg", tmp_path / "run", {**SMALL, "model.weights": str(path)}, clients=2, workers=2, listen=gone)
    assert outcome.results["complete"] and not path.exists()
    return outcome


def test_clients_need_no_file_of_weights(tmp_path: Path) -> None:
    outcome = pretrained(tmp_path)
    start, drawn = from_records(outcome.asked("round")[0].content).arrays, from_tensors(first())
    body = from_tensors({name: tensor for name, tensor in first(classes=4, seed=7).items() if not name.startswith("6.")})
    assert same({name: start[name] for name in body}, body)
    assert same({name: start[name] for name in ("6.weight", "6.bias")}, {name: drawn[name] for name in ("6.weight", "6.bias")})
    assert any("6.weight and 6.bias, which start at random" in note for note in outcome.results["notes"])


def test_layers_that_draw_give_the_same_model_in_any_process(tmp_path: Path) -> None:
    torch.manual_seed(1)
    one = run("fedavg", tmp_path / "one", SMALL, clients=3)
    torch.manual_seed(2)
    two = run("fedavg", tmp_path / "two", SMALL, clients=3, workers=2)
    assert same(one.model, two.model)


MORE: dict[str, tuple[str, dict[str, Value]]] = {
    "scaffold": ("scaffold", {"momentum": 0.0, "scaffold.server-learning-rate": 1.5}),
    "fedspeed": ("fedspeed", {"fedspeed.server": "memory"}),
    "fedavg_m": ("fedavg_m", {}),
    "scaffold_m": ("scaffold_m", {}),
    "private code words": ("fedavg", {"codec": "dp-rec", "dp-rec.bits": 3, "dp-rec.entropy": "seeded", "dp-rec.clip": 1.0}),
    "rounded": ("fedavg", {"codec": "stochastic-rounding"}),
    "median": ("fedavg", {"robust.rule": "median"}),
    "mixture": ("fedmix", {"fedmix.experts": 2}),
}


@pytest.mark.parametrize("name", MORE)
def test_other_methods_and_codecs_take_statistics(name: str, tmp_path: Path) -> None:
    method, own = MORE[name]
    outcome = run(method, tmp_path / "run", {**SMALL, **own}, clients=3)
    assert outcome.results["complete"] and outcome.results["rounds"][-1]["global"]["accuracy"] is not None
    told = [names for m in outcome.asked("round") for names in from_records(m.content).arrays]
    beside = [name for name in told if name.rpartition("/")[0] in ("control", "direction")]
    assert not [name for name in beside if "running" in name], "weights alone are corrected"


@pytest.mark.parametrize("method", ["fedavg", "fedbn"])
def test_a_pretrained_resnet20_is_tuned_on_domains_with_a_new_head(method: str, tmp_path: Path) -> None:
    """The case of docs/models.md, small: weights of other classes, clients that are domains, each measured on its own."""
    path = tmp_path / "resnet20.safetensors"
    save_file(build_model(Model(name="resnet20"), 7, 12, 3).state_dict(), path)
    given: dict[str, Value] = {**SMALL, "model.name": "resnet20", "model.weights": str(path), "num-server-rounds": 1}
    outcome = run(method, tmp_path / "run", {**given, "data.partition": "domain", "data.max-examples": 16})
    assert "a head for 7 classes, and this run has 10" in " ".join(outcome.results["notes"])
    assert ("bn1.weight" in outcome.model) is (method == "fedavg") and outcome.model["linear.weight"].shape == (10, 64)
    whose = "global" if method == "fedavg" else "personal"
    assert len(outcome.results["rounds"][-1][whose]["per_client"]) == 4
