"""Runs from Python: the same as by the command, with a result that predicts."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import fedwarm
from fedwarm.api.given import in_python, reference, settings_of
from fedwarm.api.result import Result
from fedwarm.core.failures import Interrupted
from fedwarm.launch.run import Request, run_method
from fedwarm.settings.kinds import METHODS
from fedwarm.tasks import made

SMALL: dict[str, Any] = {"local-epochs": 1, "batch-size": 8, "data": {"max-examples": 24, "image-size": 16}}
WORDS = ("local-epochs=1", "batch-size=8", "data.max-examples=24 data.image-size=16")


def linear(classes: int, image_size: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * image_size * image_size, classes))


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> fedwarm.Result:
    place = tmp_path_factory.mktemp("runs") / "first"
    return fedwarm.run("fedavg", SMALL, out=place, rounds=2, clients=2, workers=1, progress=False)


def test_a_run_is_that_of_the_command(result: fedwarm.Result, tmp_path: Path) -> None:
    by_command = run_method(Request("fedavg", out=tmp_path / "run", rounds=2, clients=2, workers=1, run_config=WORDS))
    assert (by_command / "model.safetensors").read_bytes() == (result.folder / "model.safetensors").read_bytes()
    assert fedwarm.load(by_command).metrics == result.metrics


def test_the_result_says_what_was_reached_and_what_it_cost(result: fedwarm.Result) -> None:
    told = json.loads((result.folder / "results.json").read_text())
    assert result.accuracy == result.metrics["accuracy"] == told["final"]["global"]["accuracy"]
    assert result.complete and result.method == "fedavg" and result.seed == 0 and result.settings["local-epochs"] == 1
    assert [row["round"] for row in result.history][-2:] == [1, 2]
    assert result.history[-1]["accuracy"] == result.accuracy
    assert sum(row["bytes-up"] for row in result.history) == told["totals"]["bytes_up"] > 0
    assert sum(e["wire_bytes_up"] for e in result.ledger if e["stage"] == "round") > 0 and result.privacy is None
    assert "fedavg" in repr(result) and f"{result.accuracy:.4f}" in repr(result) and str(result.folder) in repr(result)
    assert result.report.read_text().startswith("<!DOCTYPE html>")


def test_the_model_predicts_what_the_run_measured(result: fedwarm.Result) -> None:
    """Its right answers on the clients' test images are those that the run counted."""
    from fedwarm.catalogue import parse
    from fedwarm.data import load_shard
    from fedwarm.data.settings import Data

    config = parse({key: value for key, value in result.settings.items() if key.startswith("data.")})
    shards = [load_shard(config.of(Data), 0, k, 2) for k in range(2)]
    for shard, accuracy in zip(shards, result.client_accuracies, strict=True):
        found = result.predict(shard.test_images)
        assert found.dtype == torch.int64 and (found == shard.test_labels).float().mean().item() == pytest.approx(accuracy)
        assert result.outputs(shard.test_images).shape == (len(found), len(result.classes))


def test_images_are_taken_as_people_have_them(result: fedwarm.Result, tmp_path: Path) -> None:
    arrays = np.random.default_rng(0).integers(0, 255, (3, 16, 16, 3), dtype=np.uint8)
    expected = result.outputs(torch.from_numpy(arrays).permute(0, 3, 1, 2).contiguous())
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    pictures = [Image.fromarray(array) for array in arrays]
    for picture, path in zip(pictures, paths, strict=True):
        picture.save(path)
    for given in (arrays, pictures, paths, [str(path) for path in paths], arrays.transpose(0, 3, 1, 2)):
        assert torch.equal(result.outputs(given), expected)
    assert result.predict(np.zeros((2, 28, 28), np.uint8)).shape == (2,) and result.predict([]).shape == (0,)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), "do not fit the model; it takes uint8 \\(n, 3, 16, 16\\)"),
        (np.zeros((4,), np.uint8), "cannot be read; give \\(n, height, width\\)"),
        (["nowhere.png"], "'nowhere.png' cannot be read: .* give the path"),
        ([3], "an image is int; give PIL images, arrays, or paths"),
        (3, "inputs are int; give a tensor"),
        (torch.rand(2, 3, 16, 16), "images are float32, whose scale nobody knows; give uint8 from 0 to 255"),
        (np.random.default_rng(0).random((2, 3, 16, 16)), "images are float64"),
        (np.zeros((16, 16, 3), np.uint8), "is one image; give a list of it"),
    ],
)
def test_what_cannot_be_predicted_on_is_refused(result: fedwarm.Result, given: Any, why: str) -> None:
    with pytest.raises(fedwarm.SettingError, match=why):
        result.predict(given)


def test_plots_are_figures(result: fedwarm.Result, tmp_path: Path) -> None:
    figures = result.plots()
    assert {*figures} == {"rounds", "bytes", "clients"}
    figures["rounds"].savefig(tmp_path / "rounds.png")
    (axes,) = figures["rounds"].axes
    assert axes.get_xlabel() == "round" and len(axes.lines) == 3  # the model, and two thin lines


def test_best_and_personal_models(result: fedwarm.Result, tmp_path: Path) -> None:
    images = torch.zeros(1, 3, 16, 16, dtype=torch.uint8)
    assert result.outputs(images, result.best_model).shape == (1, 10)
    with pytest.raises(fedwarm.SettingError, match="no personal model of client 0; fedavg makes none"):
        result.personal_model(0)
    alone = fedwarm.run("local_only", SMALL, out=tmp_path / "run", rounds=1, clients=2, workers=1, progress=False)
    assert alone.accuracy is None and len(alone.personal_accuracies) == 2 and 0 <= alone.metrics["personal"] <= 1
    assert alone.predict(images, alone.personal_model(1)).shape == (1,) and "personal" in alone.history[-1]
    with pytest.raises(fedwarm.SettingError, match="local_only keeps no global model"):
        alone.predict(images)
    with pytest.raises(fedwarm.SettingError, match="no personal model of client 9; it has those of 0, 1"):
        alone.personal_model(9)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"settings": "seed=1"}, "settings are str; give a dictionary"),
        ({"clients": 3.0}, "clients 3.0 is float; give a whole number"),
        ({"workers": "2"}, "workers '2' is str; give a whole number"),
        ({"seed": True}, "seed True is bool; give a whole number"),
        ({"method": METHODS.load("fedavg")}, "method: this Method has no name to import it by; give 'module:NAME'"),
    ],
)
def test_arguments_of_a_wrong_type_are_refused_in_a_line(given: dict[str, Any], why: str, tmp_path: Path) -> None:
    with pytest.raises(fedwarm.SettingError, match=why):
        fedwarm.run(**{"method": "fedavg", "out": tmp_path / "run", **given})
    assert not (tmp_path / "run").exists()


def test_numbers_of_numpy_are_numbers() -> None:
    assert settings_of({"seed": np.int64(3), "learning-rate": np.float32(0.5)}) == {"seed": 3, "learning-rate": 0.5}


def test_a_run_goes_on_and_is_replaced(tmp_path: Path) -> None:
    given: dict[str, Any] = {"out": tmp_path / "run", "clients": 2, "workers": 1, "progress": False}
    first = fedwarm.run("fedavg", SMALL, rounds=1, **given)
    with pytest.raises(fedwarm.SettingError, match="^out .* holds another run; .* pass resume=True .* or fresh=True to replace"):
        fedwarm.run("fedavg", SMALL, rounds=1, **given)
    longer = fedwarm.run(out=tmp_path / "run", rounds=2, resume=True, workers=1, progress=False)
    assert longer.history[:-1] == first.history and fedwarm.run("fedavg", SMALL, rounds=1, fresh=True, **given).complete


def test_own_components_are_given_as_objects(tmp_path: Path) -> None:
    own = {**SMALL, "model.name": linear}
    done = fedwarm.run("fedavg", own, out=tmp_path / "run", rounds=1, clients=2, workers=1, progress=False)
    assert done.settings["model.name"] == f"{__name__}:linear" and isinstance(done.model, nn.Sequential)


def test_settings_are_flat_or_nested() -> None:
    given = {"seed": 1, "data": {"name": Path("a/b"), "alpha": 0.1}, "resume": False, "model": {"name": linear}}
    told = {"seed": 1, "data.name": "a/b", "data.alpha": 0.1, "resume": False, "model.name": f"{__name__}:linear"}
    assert settings_of(given) == told and settings_of(None) == {}
    with pytest.raises(fedwarm.SettingError, match=r"seed = \[1\] is list; give a text"):
        settings_of({"seed": [1]})
    with pytest.raises(fedwarm.SettingError, match="no name to import it by; give .module:NAME., or a function"):
        reference(lambda classes, size: None, "model.name")


def test_errors_are_exceptions_of_one_line_in_python_s_words(tmp_path: Path) -> None:
    for call, why in (
        (lambda: fedwarm.run("fedavg", {"lern": 1}, out=tmp_path / "a"), "lern"),
        (lambda: fedwarm.run("fedavgg", out=tmp_path / "a"), "did you mean|fedavg"),
        (lambda: fedwarm.run(), "no method is named; give one of"),
        (lambda: fedwarm.load(tmp_path), "has no results.json"),
    ):
        with pytest.raises(fedwarm.SettingError, match=why) as caught:
            call()
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "a").exists()
    assert in_python("--out x; --keep-going, --clients 3, --fresh") == "out x; keep_going=True, clients 3, fresh=True"


def test_ctrl_c_is_python_s_and_threads_are_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(request: Request) -> Path:
        torch.set_num_threads(1)
        raise Interrupted(signal.SIGINT, "interrupted after stage 1; continue with: ..")

    torch.set_num_threads(2)
    monkeypatch.setattr("fedwarm.api.running.completed", interrupted)
    with pytest.raises(KeyboardInterrupt, match="interrupted after stage 1"):
        fedwarm.run("fedavg")
    assert torch.get_num_threads() == 2


def test_a_script_without_its_guard_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multiprocessing.current_process(), "_inheriting", True, raising=False)
    with pytest.raises(fedwarm.RunError, match='put it below `if __name__ == "__main__":`, or give workers=1'):
        fedwarm.run("fedavg")


def test_nothing_is_printed_where_progress_is_not_wanted(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    fedwarm.run("fedavg", SMALL, out=tmp_path / "run", rounds=1, clients=2, workers=1, progress=False)
    assert capfd.readouterr() == ("", "")


def test_importing_the_package_takes_no_time() -> None:
    script = (
        "import sys, fedwarm; heavy = {'torch', 'flwr', 'numpy', 'matplotlib', 'typer', 'fedwarm.api'} & set(sys.modules); "
        "print(heavy or 'light', fedwarm.__version__, {'load', 'run'} <= {*dir(fedwarm)})"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=os.environ)
    version = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]["version"]
    assert done.stdout.split() == ["light", version, "True"]


@pytest.mark.long
def test_flower_s_log_is_in_one_style_from_the_first_run_on(tmp_path: Path) -> None:
    """In a fresh process, where Flower is imported by the run: each of its lines once, and without colours."""
    script = (
        "import fedwarm; fedwarm.run('fedavg', {'data': {'max-examples': 16, 'image-size': 16}, 'batch-size': 8}, rounds=1, "
        f"clients=2, workers=1, out={str(tmp_path / 'run')!r})"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=os.environ)
    assert done.stderr.count("FedAvg: 1 round") == 1 and "INFO" not in done.stderr and not done.stdout


# Other tasks

NUMBERS = np.random.default_rng(0).normal(size=(64, 5)).astype(np.float32)


def prices() -> tuple[Any, Any]:
    return NUMBERS, 3 * NUMBERS[:, 0] + 1


def signs() -> tuple[Any, Any]:
    return NUMBERS, (NUMBERS[:, :3] > 0).astype(np.float32)


def letters() -> tuple[Any, Any]:
    tokens = np.random.default_rng(1).integers(0, 6, (32, 9))
    return tokens[:, :-1], tokens[:, 1:]


def affine(outputs: int, shape: tuple[int, ...]) -> nn.Module:
    return nn.Linear(shape[0], outputs)


def bigrams(outputs: int, vocabulary: int) -> nn.Module:
    return nn.Embedding(vocabulary, outputs)


@pytest.mark.parametrize(
    ("task", "data", "model", "metric", "shape", "dtype"),
    [
        ("regression", prices, affine, "mae", (2,), torch.float32),
        ("multilabel", signs, affine, "auroc", (2, 3), torch.bool),
        ("language", letters, bigrams, "perplexity", (2, 8), torch.int64),
    ],
)
def test_every_task_has_its_metrics_predictions_and_plots(
    task: str, data: Any, model: Any, metric: str, shape: tuple[int, ...], dtype: torch.dtype, tmp_path: Path
) -> None:
    given = {"task": task, "data.name": data, "data.partition": "iid", "model.name": model, "batch-size": 8, "local-epochs": 1}
    done = fedwarm.run("fedavg", given, out=tmp_path / "run", rounds=2, clients=2, workers=1, progress=False)
    assert done.metrics[metric] == done.history[-1][metric] != done.history[-2][metric]
    inputs = data()[0][:2]
    found = done.predict(inputs)
    assert found.shape == shape and found.dtype == dtype
    assert torch.equal(done.outputs(inputs), done.model(torch.from_numpy(inputs)).detach())
    (axes,) = done.plots()[metric].axes
    assert axes.get_xlabel() == "round" and axes.get_title(loc="left") == done.document["evaluation"]["metrics"][metric]["title"]
    if task == "regression":
        with pytest.raises(fedwarm.SettingError, match="predicts numbers, which have no probabilities; use `predict`"):
            done.probabilities(inputs)
    else:
        assert bool(((probabilities := done.probabilities(inputs)) >= 0).all()) and bool((probabilities <= 1).all())


def test_vectors_of_two_views_are_no_predictions() -> None:
    result = Result.__new__(Result)
    vars(result).update(_task=made("contrast"), run=SimpleNamespace(settings={"task": "contrast"}))
    for ask in (result.predict, result.probabilities):
        with pytest.raises(fedwarm.SettingError, match="task = 'contrast' gives outputs that predict nothing; use `outputs`"):
            ask(torch.zeros(1, 3, 8, 8))
