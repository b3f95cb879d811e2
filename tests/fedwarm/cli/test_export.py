"""A run's model as the file that a device loads."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from fedwarm.catalogue import parse
from fedwarm.cli.export import export_run
from fedwarm.data.settings import Data
from fedwarm.data.shards import central_tests, open_table
from fedwarm.launch.finished import finished as finished_run
from fedwarm.launch.finished import task_of
from fedwarm.models import Model, build_model
from fedwarm.quantize.export import load_exported
from fedwarm.quantize.learned import Learned
from fedwarm.quantize.sweep import quantized
from fedwarm.quantize.uniform import PLAIN, Scheme
from fedwarm.record.reading import read_run
from fedwarm.settings.fields import SettingError, Value
from fedwarm.sparse.export import load_small
from fedwarm.training.evaluate import predict
from tests.runs import Outcome, run
from tests.tabular import CASES, numbers, text

PICTURES = torch.randint(0, 256, (30, 3, 16, 16), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    folder = tmp_path_factory.mktemp("run") / "run"
    given = {"num-server-rounds": 1, "local-epochs": 1, "data.max-examples": 30, "data.image-size": 16}
    return run("fedavg", folder, {**given, "quantization-robust.per-channel": True}, clients=2)


def model_of(outcome: Outcome) -> torch.nn.Module:
    state = load_file(outcome.folder / "model.safetensors")
    return build_model(Model(name="cnn"), len(outcome.results["partition"]["classes"]), 16, 0, state)


def test_a_run_is_exported_as_its_settings_say(finished: Outcome, tmp_path: Path) -> None:
    done, saved = export_run(finished.folder, 4, "torch", tmp_path / "model")
    expected = quantized(model_of(finished), 4, Scheme(per_channel=True))
    assert torch.equal(predict(load_exported(tmp_path / "model"), PICTURES), predict(expected, PICTURES))
    assert done.file_bytes == (tmp_path / "model").stat().st_size and done.bits == 4 and not saved


def test_an_architecture_s_own_settings_travel_with_the_file(tmp_path: Path) -> None:
    given: dict[str, Value] = {"num-server-rounds": 1, "data.max-examples": 8, "data.image-size": 16, "cnn.channels": 4}
    outcome = run("fedavg", tmp_path / "run", given, clients=2)
    export_run(outcome.folder, 32, "torch", tmp_path / "model")
    kept, state = load_file(outcome.folder / "model.safetensors"), load_exported(tmp_path / "model").state_dict()
    assert len(state["0.weight"]) == 4 and torch.equal(state["7.bias"], kept["7.bias"])


def sparse(tmp_path: Path, finished: Outcome) -> tuple[Path, torch.nn.Module]:
    """The run with maps 3 and 5 of its first convolution gone, half of the second's, and some inputs of its head."""
    model = model_of(finished)
    with torch.no_grad():
        for layer, gone in (("0", [3, 5]), ("3", range(0, 32, 2))):
            for p in model.get_submodule(layer).parameters():
                p[list(gone)] = 0
        model.get_submodule("7").get_parameter("weight")[:, 100:133] = 0
    (tmp_path / "results.json").write_text(json.dumps(finished.results))
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    return tmp_path, model


def test_units_without_weights_are_left_out(finished: Outcome, tmp_path: Path) -> None:
    """The small network gives the same, in a file of its true size, and loads as it is."""
    folder, model = sparse(tmp_path, finished)
    done, saved = export_run(folder, 32, "torch", tmp_path / "small")
    small = load_small(tmp_path / "small")
    torch.testing.assert_close(predict(small, PICTURES), predict(model, PICTURES), rtol=0, atol=1e-6)
    numbers = sum(p.numel() for p in small.parameters())
    assert small.get_submodule("0").get_parameter("weight").shape[0] == 14
    assert 0 < done.file_bytes - 4 * numbers < 2500 and numbers < 9000
    assert f"{numbers:,} of 19,178 numbers" in saved and "multiply-adds" in saved and "ms an image" in saved
    with pytest.raises(SettingError, match=r"read it by fedwarm\.sparse\.export\.load_small"):
        load_exported(tmp_path / "small")


def test_small_networks_are_quantized_and_written_as_onnx(finished: Outcome, tmp_path: Path) -> None:
    folder, model = sparse(tmp_path, finished)
    export_run(folder, 8, "torch", tmp_path / "small")
    assert (predict(load_small(tmp_path / "small"), PICTURES) - predict(model, PICTURES)).abs().max() < 0.05
    runtime = pytest.importorskip("onnxruntime", reason="ONNX models are run by onnxruntime")
    export_run(folder, 8, "onnx", tmp_path / "small.onnx")
    session = runtime.InferenceSession((tmp_path / "small.onnx").read_bytes(), providers=["CPUExecutionProvider"])
    found = torch.from_numpy(session.run(None, {"images": PICTURES.numpy()})[0])
    torch.testing.assert_close(found, predict(load_small(tmp_path / "small"), PICTURES), rtol=1e-4, atol=1e-5)


def test_as_onnx(finished: Outcome, tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime", reason="ONNX models are run by onnxruntime")
    export_run(finished.folder, 4, "onnx", tmp_path / "model.onnx")
    session = runtime.InferenceSession((tmp_path / "model.onnx").read_bytes(), providers=["CPUExecutionProvider"])
    found = torch.from_numpy(session.run(None, {"images": PICTURES.numpy()})[0])
    expected = predict(quantized(model_of(finished), 4, Scheme(per_channel=True)), PICTURES)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(found.argmax(1), expected.argmax(1))


def test_steps_that_were_learned_are_taken(finished: Outcome, tmp_path: Path) -> None:
    state = load_file(finished.folder / "model.safetensors")
    steps = {"quantizer/3.weight.log_step": torch.full((32, 1, 1, 1), -4.0)}
    results = finished.results
    results["settings"]["quantization-robust.bits"] = 3
    (tmp_path / "results.json").write_text(json.dumps(results))
    save_file({**state, **steps, "quantizer/3.input.log_alpha": torch.zeros(())}, tmp_path / "model.safetensors")
    export_run(tmp_path, 3, "torch", tmp_path / "out" / "model")
    expected = quantized(model_of(finished), 3, Scheme(per_channel=True), learned=Learned(3, steps))
    assert torch.equal(predict(load_exported(tmp_path / "out" / "model"), PICTURES), predict(expected, PICTURES))


def test_what_cannot_be_exported_is_refused(finished: Outcome, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="not a run folder"):
        export_run(tmp_path, 4, "torch", tmp_path / "model")
    results = finished.results
    (tmp_path / "results.json").write_text(json.dumps(results))
    with pytest.raises(SettingError, match=r"holds no model\.safetensors"):
        export_run(tmp_path, 4, "torch", tmp_path / "model")
    state = load_file(finished.folder / "model.safetensors")
    save_file({name: t for name, t in state.items() if name != "0.bias"}, tmp_path / "model.safetensors")
    with pytest.raises(SettingError, match="does not fit model 'cnn'"):
        export_run(tmp_path, 4, "torch", tmp_path / "model")
    with pytest.raises(SettingError, match="bits = 40"):
        export_run(finished.folder, 40, "torch", tmp_path / "model")
    del results["settings"]["model.name"]
    (tmp_path / "results.json").write_text(json.dumps(results))
    with pytest.raises(SettingError, match=r"does not say model\.name"):
        export_run(tmp_path, 4, "torch", tmp_path / "model")


def test_a_model_whose_normalisation_stays_with_clients_is_no_global_one(tmp_path: Path) -> None:
    given: dict[str, Value] = {**CASES["regression"], "model.name": "tests.tabular:normed", "num-server-rounds": 1}
    outcome = run("fedbn", tmp_path / "run", given, clients=2)
    with pytest.raises(SettingError, match="or fedbn has several models or leaves parts of its model with clients: give a run"):
        export_run(outcome.folder, 8, "torch", tmp_path / "model")


def test_the_runs_own_files_are_not_written_over(finished: Outcome) -> None:
    before = {path: path.read_bytes() for path in finished.folder.glob("*.*")}
    for name in ("model.safetensors", "best.safetensors", "ledger.jsonl"):
        with pytest.raises(SettingError, match=f"{name}' is a file of the run itself; name another one, e.g. .*model-w8"):
            export_run(finished.folder, 32, "torch", finished.folder / "checkpoint" / ".." / name)
    assert {path: path.read_bytes() for path in finished.folder.glob("*.*")} == before
    for _ in range(2):
        export_run(finished.folder, 32, "torch", finished.folder / "device.safetensors")


OTHERS: dict[str, dict[str, Value]] = {
    "rows": {**CASES["regression"], "regression.offset": 3.0, "regression.scale": 2.0},
    "places of a text": {**CASES["language"], "model.name": "gru", "gru.width": 6, "gru.embedding": 4},
}


@pytest.mark.parametrize("given", OTHERS.values(), ids=OTHERS.keys())
def test_models_of_other_inputs(given: dict[str, Value], tmp_path: Path) -> None:
    """onnxruntime without its own optimising, which computes a product behind a DequantizeLinear in whole numbers."""
    runtime = pytest.importorskip("onnxruntime", reason="ONNX models are run by onnxruntime")
    folder = run("fedavg", tmp_path / "run", {**given, "num-server-rounds": 1}, clients=2).folder
    done = finished_run(read_run(folder))
    inputs = (numbers() if done.inputs.dtype == "float32" else text())[0]
    expected = predict(quantized(done.model, 8, PLAIN), inputs)
    export_run(folder, 8, "torch", tmp_path / "model")
    assert torch.equal(predict(load_exported(tmp_path / "model"), inputs), expected)
    export_run(folder, 8, "onnx", tmp_path / "model.onnx")
    options = runtime.SessionOptions()
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = runtime.InferenceSession((tmp_path / "model.onnx").read_bytes(), options, providers=["CPUExecutionProvider"])
    found = torch.from_numpy(session.run(None, {"inputs": inputs.numpy()})[0])
    task = task_of(read_run(folder))
    torch.testing.assert_close(found, task.outputs(lambda _: expected, inputs, None), rtol=1e-4, atol=1e-5)
    with safe_open(tmp_path / "model", "pt") as file:
        told = json.loads(file.metadata()["fedwarm"])["task"]
    numbers_told = {"regression.loss": "squared", "regression.offset": 3.0, "regression.scale": 2.0}
    assert told == {"name": given["task"], **(numbers_told if given["task"] == "regression" else {})}


TABLE: dict[str, Value] = {
    "data.name": "breast_cancer", "model.name": "tests.tabular:rows", "num-server-rounds": 1, "local-epochs": 1,
}  # fmt: skip


def test_columns_are_scaled_as_in_training(tmp_path: Path) -> None:
    """An ONNX graph takes them as the data set has them; a torch file's header says how to scale them."""
    runtime = pytest.importorskip("onnxruntime", reason="ONNX models are run by onnxruntime")
    outcome = run("fedavg", tmp_path / "run", TABLE, clients=2)
    data = parse(outcome.results["settings"]).of(Data)
    rows = np.arange(20)
    raw, seen = open_table(data).images(rows), central_tests(data, 0, 2)[0].images(rows)
    _, text = export_run(outcome.folder, 32, "torch", tmp_path / "model")
    with safe_open(tmp_path / "model", "pt") as file:
        told = json.loads(file.metadata()["fedwarm"])["columns"]
    assert not text and told["names"] == outcome.results["inputs"]["columns"]
    mean, std = (torch.tensor(told[name], dtype=torch.float64) for name in ("mean", "std"))
    torch.testing.assert_close(((raw.double() - mean) / std).float(), seen)
    export_run(outcome.folder, 32, "onnx", tmp_path / "model.onnx")
    session = runtime.InferenceSession((tmp_path / "model.onnx").read_bytes(), providers=["CPUExecutionProvider"])
    found = torch.from_numpy(session.run(None, {"inputs": raw.numpy()})[0])
    torch.testing.assert_close(found, predict(load_exported(tmp_path / "model"), seen), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "why"), [("own", "at each site"), ("gone/away.csv", "by gone/away.csv, which is not here")])
def test_columns_whose_scale_is_not_known_are_told_of(name: str, why: str, tmp_path: Path) -> None:
    outcome = run("fedavg", tmp_path / "run", TABLE, clients=2)
    results = outcome.results
    results["settings"]["data.name"] = name
    (outcome.folder / "results.json").write_text(json.dumps(results))
    _, text = export_run(outcome.folder, 32, "torch", tmp_path / "model")
    assert why in text and "data.standardise = 'auto'" in text and "\n" not in text
    results["settings"]["data.standardise"] = "none"
    (outcome.folder / "results.json").write_text(json.dumps(results))
    assert export_run(outcome.folder, 32, "torch", tmp_path / "model")[1] == ""
