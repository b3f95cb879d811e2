"""Exported models: their true size, and the same predictions after loading them back."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fedwarm.models import Model, build_model
from fedwarm.quantize.export import MASK, STEP, export, load_exported
from fedwarm.quantize.learned import Learned, weight_name
from fedwarm.quantize.surgery import layers
from fedwarm.quantize.sweep import quantized
from fedwarm.quantize.uniform import Scheme
from fedwarm.settings.fields import SettingError
from fedwarm.training.evaluate import predict

CNN = Model(name="cnn")
SCHEMES = {"plain": Scheme(), "channels": Scheme(per_channel=True, full_range=True), "inner": Scheme(skip_first_last=True)}


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return build_model(CNN, 10, 16, 0)


def pictures(size: int = 16, n: int = 40) -> Tensor:
    return torch.randint(0, 256, (n, 3, size, size), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


def stored_floats(model: nn.Module, scheme: Scheme) -> int:
    """Bytes of what stays float, and of the steps."""
    chosen = layers(model, scheme.skip_first_last)
    steps = sum(len(layer.get_parameter("weight")) if scheme.per_channel else 1 for layer in chosen.values())
    rest = sum(p.numel() for p in model.parameters()) - sum(layer.get_parameter("weight").numel() for layer in chosen.values())
    return 4 * (steps + rest)


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES.keys())
@pytest.mark.parametrize("bits", [2, 3, 4, 5, 8, 12])
def test_the_same_predictions_from_a_file_of_the_true_size(model: nn.Module, bits: int, scheme: Scheme, tmp_path: Path) -> None:
    done = export(model, bits, "torch", tmp_path / "model", CNN, 10, 16, scheme)
    loaded = load_exported(tmp_path / "model")
    assert torch.equal(predict(loaded, pictures()), predict(quantized(model, bits, scheme), pictures()))
    weights = [layer.get_parameter("weight").numel() for layer in layers(model, scheme.skip_first_last).values()]
    data = (tmp_path / "model").read_bytes()
    header_bytes = 8 + int.from_bytes(data[:8], "little")
    exact = sum(-(-bits * n // 8) for n in weights)
    assert len(data) == done.file_bytes == exact + stored_floats(model, scheme) + header_bytes
    assert (done.weights, done.weight_bytes, done.overhead_bytes) == (sum(weights), exact, len(data) - exact)
    assert abs(done.file_bytes - (bits * done.weights / 8 + done.overhead_bytes)) <= 0.03 * bits * done.weights / 8
    with safe_open(tmp_path / "model", "pt") as file:
        for name, layer in layers(model, scheme.skip_first_last).items():
            packed = file.get_tensor(f"{name}.weight")
            assert packed.dtype == torch.uint8 and packed.numel() == -(-bits * layer.get_parameter("weight").numel() // 8)


def test_a_large_models_file_is_within_three_percent_of_bits_times_parameters(tmp_path: Path) -> None:
    settings = Model(name="resnet18")
    done = export(build_model(settings, 10, 32, 0), 4, "torch", tmp_path / "model", settings, 10, 32, Scheme("minmax"))
    assert done.file_bytes == pytest.approx(4 * 11_173_962 / 8, rel=0.03)


def test_32_bits_is_the_float_model(model: nn.Module, tmp_path: Path) -> None:
    done = export(model, 32, "torch", tmp_path / "model", CNN, 10, 16)
    assert torch.equal(predict(load_exported(tmp_path / "model"), pictures()), predict(model, pictures()))
    assert done.weight_bytes == 4 * done.weights and "float weights" in done.text


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES.keys())
@pytest.mark.parametrize("bits", [2, 4, 8, 32])
def test_zeros_of_a_sparse_model_are_left_out(bits: int, scheme: Scheme, tmp_path: Path) -> None:
    """A tensor that is mostly zeros takes a bit a number and the bits of the others; the same model comes back."""
    sparse = build_model(CNN, 10, 16, 0)
    kept = {}
    for name, p in sparse.named_parameters():
        if p.dim() > 1:
            kept[name] = torch.rand(p.shape, generator=torch.Generator().manual_seed(1)) < 0.2
            p.data *= kept[name]
    done = export(sparse, bits, "torch", tmp_path / "model", CNN, 10, 16, scheme)
    loaded = load_exported(tmp_path / "model")
    assert torch.equal(predict(loaded, pictures()), predict(quantized(sparse, bits, scheme), pictures()))
    tensors, names = load_file(tmp_path / "model"), [f"{n}.weight" for n in layers(sparse, scheme.skip_first_last)]
    for name in names:
        there = int(loaded.get_parameter(name).count_nonzero())
        assert there <= int(kept[name].sum()) and len(tensors[name + MASK]) == -(-kept[name].numel() // 8)
        assert tensors[name].nbytes == -(-there * bits // 8)
    assert done.weight_bytes == sum(tensors[name].nbytes + tensors[name + MASK].nbytes for name in names)
    assert done.zeros == sum(kept[n].numel() - int(loaded.get_parameter(n).count_nonzero()) for n in names)
    assert "of them zeros that are left out, in" in done.text
    whole = export(sparse, bits, "onnx", tmp_path / "whole", CNN, 10, 16, scheme) if bits == 8 else None
    assert whole is None or (whole.zeros == 0 and "zeros" not in whole.text)


def test_learned_steps_are_exported(model: nn.Module, tmp_path: Path) -> None:
    learned = Learned(4, {weight_name("3"): torch.tensor([-4.0])})
    export(model, 4, "torch", tmp_path / "model", CNN, 10, 16, learned=learned)
    expected = quantized(model, 4, learned=learned)
    assert torch.equal(predict(load_exported(tmp_path / "model", CNN), pictures()), predict(expected, pictures()))
    assert load_file(tmp_path / "model")["3.weight" + STEP].item() == pytest.approx(np.exp(-4.0))


class Residual(nn.Module):
    """A convolution, a residual block with GroupNorm, a mean over the picture, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.GroupNorm(2, 8)
        self.second, self.last = nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.first(x)))
        x = torch.relu(x + self.second(x))
        out: Tensor = self.last(x.mean((2, 3)))
        return out


def run_onnx(path: Path, images: Tensor) -> Tensor:
    runtime = pytest.importorskip("onnxruntime", reason="ONNX models are run by onnxruntime")
    session: Any = runtime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


@pytest.mark.long
@pytest.mark.parametrize(
    ("bits", "stored", "kind"), [(2, 2, "channels"), (3, 4, "plain"), (4, 4, "channels"), (8, 8, "inner"), (12, 16, "plain")]
)
def test_onnx_gives_the_same_predictions(bits: int, stored: int, kind: str, tmp_path: Path) -> None:
    onnx, scheme = pytest.importorskip("onnx", reason="ONNX export needs onnx"), SCHEMES[kind]
    torch.manual_seed(0)
    model = Residual()
    done = export(model, bits, "onnx", tmp_path / "m.onnx", CNN, 5, 8, scheme)
    assert done.file_bytes == (tmp_path / "m.onnx").stat().st_size
    expected = predict(quantized(model, bits, scheme), pictures(8))
    for images, logits in ((pictures(8), expected), (pictures(8)[:1], expected[:1])):
        found = run_onnx(tmp_path / "m.onnx", images)
        torch.testing.assert_close(found, logits, rtol=1e-4, atol=1e-5)
        assert torch.equal(found.argmax(1), logits.argmax(1))
    graph = onnx.load(tmp_path / "m.onnx").graph
    codes = [i for i in graph.initializer if i.name.endswith(".codes")]
    assert len(codes) == len(layers(model, scheme.skip_first_last))
    assert {i.data_type for i in codes} == {getattr(onnx.TensorProto, f"INT{stored}")}
    assert sum(len(i.raw_data) for i in codes) == done.weight_bytes and done.stored_bits == stored
    assert ("stored in" in done.text) == (stored != bits)
    assert str(Path.cwd()).encode() not in (tmp_path / "m.onnx").read_bytes()


def test_what_cannot_be_exported_is_refused(model: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="format 'tflite'"):
        export(model, 4, "tflite", tmp_path / "m", CNN, 10, 16)
    with pytest.raises(SettingError, match="bits = 1"):
        export(model, 1, "torch", tmp_path / "m", CNN, 10, 16)
    broken = build_model(CNN, 10, 16, 0)
    with torch.no_grad():
        broken.get_parameter("3.weight")[0] = torch.nan
    with pytest.raises(SettingError, match=r"3\.weight holds NaN"):
        export(broken, 4, "torch", tmp_path / "m", CNN, 10, 16)
    assert not list(tmp_path.iterdir())


def test_what_is_no_exported_model_is_refused(model: nn.Module, tmp_path: Path) -> None:
    path, good = tmp_path / "m", tmp_path / "good"
    export(model, 4, "torch", good, CNN, 10, 16)
    with safe_open(good, "pt") as file:
        header = json.loads(file.metadata()["fedwarm"])

    def written(change: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        save_file({**load_file(good), **tensors}, path, metadata={"fedwarm": json.dumps({**header, **change})})

    spoilt: list[tuple[dict[str, Any], dict[str, Tensor]]] = [
        ({"version": 3}, {}),
        ({"version": 2, "sparse": {"3.weight": [2, 2]}}, {}),
        ({"version": 2, "sparse": ["3.weight"]}, {}),
        (
            {"version": 2, "sparse": {"7.bias": [10]}},
            {"7.bias": torch.ones(1), "7.bias.mask": torch.tensor([255, 3], dtype=torch.uint8)},
        ),
        ({"version": 2, "sparse": {"7.bias": [10]}}, {"7.bias.mask": torch.zeros(2, dtype=torch.uint8)}),
        ({"model": "vgg"}, {}),
        ({"bits": 3}, {}),
        ({"bits": 99}, {}),
        ({"classes": 7}, {}),
        ({"shapes": {"9.weight": [2]}}, {}),
        ({}, {"3.weight": torch.zeros(3, dtype=torch.uint8)}),
        ({}, {"3.weight.step": torch.zeros(3)}),
        ({}, {"3.weight.step": torch.tensor([torch.inf])}),
    ]
    for change, tensors in spoilt:
        written(change, tensors)
        with pytest.raises(SettingError, match=str(path)):
            load_exported(path)
    path.write_bytes(b"nothing")
    for missing in (path, tmp_path / "none"):
        with pytest.raises(SettingError, match=str(missing)):
            load_exported(missing)
    with pytest.raises(SettingError, match="was not written by"):
        load_exported(good, Model(name="lenet5"))


@pytest.mark.filterwarnings("error")
def test_a_third_partys_warning_does_not_end_an_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    onnx = pytest.importorskip("onnx", reason="ONNX export needs onnx")
    pytest.importorskip("onnxscript", reason="ONNX export needs onnxscript")
    for place, name in ((torch.onnx, "export"), (onnx.version_converter, "convert_version"), (onnx.checker, "check_model")):
        original = getattr(place, name)

        def warning(*args: Any, original: Any = original, **more: Any) -> Any:
            for kind in (UserWarning, FutureWarning, DeprecationWarning):
                warnings.warn("as of the next version", kind, stacklevel=2)
            return original(*args, **more)

        monkeypatch.setattr(place, name, warning)
    model = build_model(Model(name="logistic"), 3, 8, 0)
    assert export(model, 2, "onnx", tmp_path / "m.onnx", Model(name="logistic"), 3, 8).bits == 2


def test_an_exported_file_knows_what_input_its_model_expects(tmp_path: Path) -> None:
    settings = Model(name="resnet20", mean="0.5", std="0.25", input_size=12)
    net, path = build_model(settings, 3, 16, 0).eval(), tmp_path / "w.safetensors"
    export(net, 32, "torch", path, settings, 3, 16)
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(load_exported(path).eval()(images), net(images))


def test_onnx_has_batch_normalisation_once(tmp_path: Path) -> None:
    """The optimiser multiplies it into the layer before; what is quantized are the layer's own weights."""
    pytest.importorskip("onnxscript", reason="ONNX export needs onnxscript")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5), nn.BatchNorm1d(5))
    for norm in (model[1], model[5]):
        norm.get_buffer("running_var").fill_(3.0)
        norm.get_buffer("running_mean").fill_(0.2)
    export(model, 8, "onnx", tmp_path / "m.onnx", CNN, 5, 8)
    expected = predict(quantized(model, 8), pictures(8))
    torch.testing.assert_close(run_onnx(tmp_path / "m.onnx", pictures(8)), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["3.bias", "7.weight"])
@pytest.mark.parametrize("bits", [4, 32])
def test_no_number_that_is_not_finite_is_exported(name: str, bits: int, tmp_path: Path) -> None:
    broken = build_model(CNN, 10, 16, 0)
    broken.get_parameter(name).data[0] = torch.inf
    with pytest.raises(SettingError, match=f"{name} holds NaN or infinity; such a model cannot be exported"):
        export(broken, bits, "torch", tmp_path / "m", CNN, 10, 16)
    assert not list(tmp_path.iterdir())
