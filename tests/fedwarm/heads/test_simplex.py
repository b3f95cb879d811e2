"""The simplex: its angles by their closed form, its bits, its gradient, what is refused, and a model with it read again."""

from __future__ import annotations

from math import exp, log
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from fedwarm.api import Result
from fedwarm.cli.export import export_run
from fedwarm.data import load_shard
from fedwarm.data.settings import Data
from fedwarm.flower.wire import from_records
from fedwarm.heads.simplex import Simplex, frame
from fedwarm.launch.preflight import check_run
from fedwarm.models import Model, build_model, to_input
from fedwarm.quantize.export import load_exported
from fedwarm.settings.fields import SettingError, Value
from tests.runs import run

SMALL: dict[str, Value] = {
    "num-server-rounds": 1, "local-epochs": 1, "data.max-examples": 24, "server-threads": 1, "data.image-size": 16,
    "model.name": "lenet5", "learning-rate": 0.05, "model.head": "simplex",
}  # fmt: skip


KNOWN = [-0.05378172, 0.23743957, 0.08494888]


def mlp(classes: int = 3, **settings: Value) -> torch.nn.Module:
    head = Simplex(**{"temperature": 0.5, **settings})  # type: ignore[arg-type]
    return build_model(Model(name="mlp", head="simplex", own_settings=(head,)), classes, 4, 1).double()


@pytest.mark.parametrize(("classes", "features", "product"), [(10, 64, -0.111111), (7, 64, -0.166667), (3, 3, -0.5), (2, 5, -1)])
def test_all_angles_are_the_same_and_class_vectors_sum_to_0(classes: int, features: int, product: float) -> None:
    m = frame(classes, features)
    wanted = classes / (classes - 1) * np.eye(classes) - 1 / (classes - 1)
    assert m.shape == (classes, features) and np.abs(m @ m.T - wanted).max() < 1e-12 and np.abs(m.sum(0)).max() < 1e-12
    assert abs((m @ m.T)[0, 1] - product) < 1e-6


def test_the_frame_belongs_to_its_shape_and_has_the_same_bits_each_time() -> None:
    again = frame.__wrapped__(10, 64)
    assert np.array_equal(again, frame(10, 64)) and not np.array_equal(frame(10, 65)[:, :64], again)
    assert np.allclose(again[0, :3], KNOWN, atol=1e-6)


@pytest.mark.parametrize("features", ["unit", "raw"])
def test_outputs_are_products_over_the_temperature(features: str) -> None:
    model, x = mlp(features=features), torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(0)).double()
    h = model[:-1](x)  # type: ignore[index]
    u = h / h.norm(dim=1, keepdim=True) if features == "unit" else h
    assert torch.allclose(model(x), u @ torch.from_numpy(frame(3, 32)).T / 0.5, atol=1e-6)


def test_no_loss_is_below_what_the_temperature_allows() -> None:
    """ln(1 + (C - 1) exp(-C / ((C - 1) tau))), which features that point along their class's vector reach."""
    m, tau = torch.from_numpy(frame(10, 16)), 1.0
    least = F.cross_entropy(F.normalize(m, dim=1) @ m.T / tau, torch.arange(10))
    assert abs(float(least) - log(1 + 9 * exp(-10 / 9 / tau))) < 1e-12 and abs(float(least) - 1.377) < 1e-3


def test_the_gradient_is_that_of_central_differences() -> None:
    model, x, y = mlp(), torch.randn(6, 3, 4, 4, generator=torch.Generator().manual_seed(2)).double(), torch.arange(6) % 3
    F.cross_entropy(model(x), y).backward()  # type: ignore[no-untyped-call]
    p, step = next(model.parameters()), 1e-6
    for place in [(0, 0), (5, 7), (31, 47)]:
        losses = []
        for way in (step, -step):
            with torch.no_grad():
                p[place] += way
                losses.append(float(F.cross_entropy(model(x), y)))
                p[place] -= way
        assert p.grad is not None and abs(float(p.grad[place]) - (losses[0] - losses[1]) / (2 * step)) < 1e-6


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"model.name": "mlp", "mlp.width": 4}, "as many features as classes, and the last layer has 4 for 10"),
        ({"model.name": "mlp", "task": "regression", "data.name": "planted"}, "works on classes alone"),
        ({"model.name": "lenet5", "model.train": "head"}, "no parameter that requires a gradient"),
        ({"model.name": "tests.fedwarm.heads.test_simplex:convolved"}, "last one is Conv2d"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused_in_a_line(given: dict[str, Value], why: str) -> None:
    with pytest.raises(SettingError, match=why) as error:
        check_run({"method": "fedavg", "data.image-size": 16, "model.head": "simplex", **given}, 2)
    assert "\n" not in str(error.value)


def convolved(classes: int, image_size: int) -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Conv2d(3, classes, image_size), torch.nn.Flatten())


def test_a_file_s_own_head_is_not_taken(tmp_path: Path) -> None:
    plain = build_model(Model(name="lenet5"), 10, 16, 7).state_dict()
    save_file(plain, path := str(tmp_path / "w.safetensors"))
    found = build_model(Model(name="lenet5", head="simplex", weights=path), 10, 16, 8).state_dict()
    own = build_model(Model(name="lenet5", head="simplex"), 10, 16, 9).state_dict()
    head = {name for name in plain if not torch.equal(found[name], plain[name])}
    assert head == {"11.weight", "11.bias"} and all(torch.equal(found[name], own[name]) for name in head)


def test_of_a_head_for_other_classes_it_is_said_that_the_fixed_one_stays(tmp_path: Path) -> None:
    save_file(build_model(Model(name="lenet5"), 7, 16, 7).state_dict(), path := str(tmp_path / "w.safetensors"))
    told: list[str] = []
    build_model(Model(name="lenet5", head="simplex", weights=path), 10, 16, 8, say=told.append)
    assert len(told) == 1 and told[0].endswith("but 11.weight and 11.bias, which stay as model.head = 'simplex' has them")


@pytest.mark.parametrize("scope", ["all", "lora"])
def test_the_fixed_head_does_not_travel_with_a_file_of_weights_either(scope: str, tmp_path: Path) -> None:
    save_file(build_model(Model(name="lenet5"), 10, 16, 7).state_dict(), path := str(tmp_path / "w.safetensors"))
    outcome = run("fedavg", tmp_path / "run", {**SMALL, "model.weights": path, "model.train": scope}, clients=2)
    names = {name for message in outcome.messages for name in from_records(message.content).arrays}
    assert not any("11." in name for name in names) and any(name.startswith("fixed/") for name in names) == (scope == "lora")
    own = build_model(Model(name="lenet5", head="simplex"), 10, 16, 9).state_dict()
    assert all(np.array_equal(outcome.model[name], own[name]) for name in ("11.weight", "11.bias"))


def test_a_run_s_model_answers_as_it_did_wherever_it_is_read(tmp_path: Path) -> None:
    """By the run's folder and out of an exported file; also where dividing by a length matters, to probabilities."""
    outcome = run("fedavg", tmp_path / "run", SMALL, clients=2)
    images = load_shard(Data(image_size=16, max_examples=24), 0, 0, 2).train_images
    own = build_model(Model(name="lenet5", head="simplex"), 10, 16, 0, load_file(outcome.folder / "model.safetensors"))
    wanted = own.eval()(to_input(images)).detach()
    assert torch.equal(Result(outcome.folder).outputs(images), wanted) and float(wanted.abs().max()) <= 10.001
    export_run(outcome.folder, 32, "torch", tmp_path / "out.safetensors")
    assert torch.allclose(load_exported(tmp_path / "out.safetensors").eval()(to_input(images)), wanted, atol=1e-5)
