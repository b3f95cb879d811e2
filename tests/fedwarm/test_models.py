"""Classifiers: sizes, weights from a file, devices; `tests/contracts/test_models.py` has what holds for each."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from fedwarm.core.inputs import Form
from fedwarm.models import Model, _empty, arguments, behead, build_model, device_of, head_of, to_input
from fedwarm.models.gru import Gru
from fedwarm.norms import normalising
from fedwarm.settings.fields import SettingError
from fedwarm.settings.kinds import MODELS


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def refusal(path: Path, name: str = "cnn") -> str:
    with pytest.raises(SettingError) as caught:
        build_model(Model(name=name, weights=str(path)), 3, 16, 0)
    text = str(caught.value)
    assert len(text.splitlines()) == 1 and "model.weights" in text and str(path) in text
    return text


def test_input_is_centred_and_scaled() -> None:
    pixels = torch.tensor([0, 255, 51], dtype=torch.uint8).reshape(3, 1, 1, 1)
    assert to_input(pixels).flatten().tolist() == pytest.approx([-1.0, 1.0, -0.6])


def test_sizes_are_the_layers_sums() -> None:
    assert count(MODELS.load("logistic")(10, 32)) == 3 * 32 * 32 * 10 + 10 == 30730
    conv = [3 * 16 * 25 + 16, 16 * 32 * 25 + 32]
    assert count(MODELS.load("cnn")(10, 32)) == sum(conv) + 32 * 8 * 8 * 10 + 10 == 34538
    four = [9 * a * b + 2 * b for a, b in ((3, 16), (16, 32), (32, 64), (64, 128))]
    assert count(MODELS.load("conv4")(10, 32)) == sum(four) + 128 * 10 + 10 == 98970
    lenet = [3 * 6 * 25 + 6, 6 * 16 * 25 + 16, 400 * 120 + 120, 120 * 84 + 84, 84 * 10 + 10]
    assert count(MODELS.load("lenet5")(10, 32)) == sum(lenet)
    published = 11_689_512 - 513_000 + 513 * 10  # ResNet-18 of 1000 classes, another last layer
    assert count(MODELS.load("resnet18")(10, 128)) == published
    assert count(MODELS.load("resnet18")(10, 32)) == published - 64 * 3 * (49 - 9)


@pytest.mark.parametrize(
    ("name", "sizes"),
    [("cnn", range(8, 40)), ("lenet5", range(16, 40)), ("logistic", range(8, 40)), ("resnet18", [8, 32])],
)
def test_any_image_size_gives_logits(name: str, sizes: range | list[int]) -> None:
    for size in sizes:
        with torch.no_grad():
            assert MODELS.load(name)(7, size)(torch.zeros(2, 3, size, size)).shape == (2, 7), size


def test_logistic_is_linear_in_the_pixels() -> None:
    model = build_model(Model(name="logistic"), 4, 8, 0)
    state = {name.split(".")[-1]: value for name, value in model.state_dict().items()}
    x = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(model(x), x.reshape(5, -1) @ state["weight"].T + state["bias"])


def test_too_small_an_image_is_refused() -> None:
    with pytest.raises(SettingError, match="at least 16 pixels; data.image-size is 15"):
        MODELS.load("lenet5")(10, 15)


def test_weights_from_a_file(tmp_path: Path) -> None:
    source = build_model(Model(), 3, 16, 7)
    save_file(source.state_dict(), tmp_path / "w.safetensors")
    loaded = build_model(Model(weights=str(tmp_path / "w.safetensors")), 3, 16, 0).state_dict()
    assert all(torch.equal(loaded[k], v) for k, v in source.state_dict().items())


def test_a_missing_weights_file_is_refused(tmp_path: Path) -> None:
    assert "is no file" in refusal(tmp_path / "none.safetensors")
    assert "is no file" in refusal(tmp_path)


def test_weights_of_another_model_are_refused_with_the_reason(tmp_path: Path) -> None:
    save_file(build_model(Model(name="lenet5"), 3, 16, 0).state_dict(), tmp_path / "names.safetensors")
    assert "3.weight" in refusal(tmp_path / "names.safetensors")
    save_file(build_model(Model(), 3, 20, 0).state_dict(), tmp_path / "shapes.safetensors")
    assert "7.weight" in refusal(tmp_path / "shapes.safetensors")


@pytest.mark.parametrize("name", MODELS)
def test_the_head_is_what_knows_the_number_of_classes(name: str) -> None:
    form = Form((8,), "int64", 20) if name == "gru" else Form.picture(32)
    few, many = (build_model(Model(name=name), classes, form, 0) for classes in (3, 4))
    differ = [key for key, value in few.state_dict().items() if value.shape != many.state_dict()[key].shape]
    assert list(head_of(Model(name=name), few)) == differ


def test_a_reader_normalises_what_its_head_reads_where_that_is_asked_for() -> None:
    form = Form((8,), "int64", 20)
    plain, normed = (build_model(Model(name="gru", own_settings=(Gru(norm=norm),)), 20, form, 0) for norm in ("none", "layer"))
    assert normalising(plain) == () and normalising(normed) == ("norm.weight", "norm.bias")
    assert [*plain.state_dict()] == [name for name in normed.state_dict() if not name.startswith("norm.")]
    normed.get_submodule("head").register_forward_pre_hook(lambda _, given: read.append(given[0]))
    read: list[torch.Tensor] = []
    normed(torch.arange(16).reshape(2, 8))
    assert read[0].mean(-1).abs().max() < 1e-5 and (read[0].var(-1, unbiased=False) - 1).abs().max() < 1e-2


def test_a_component_may_name_its_head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "from torch.nn import Linear, ModuleDict\n\ndef two(classes, size):\n"
    code += "    return ModuleDict({'out': Linear(4, classes), 'in': Linear(4, 4)})\n\ntwo.head = 'out'\n"
    (tmp_path / "two_heads.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    settings = Model(name="two_heads:two")
    assert head_of(settings, build_model(settings, 3, 8, 0)) == ("out.weight", "out.bias")


@pytest.mark.parametrize("classes", [2, 5])
def test_a_file_for_other_classes_gives_all_but_its_head(tmp_path: Path, classes: int) -> None:
    source, path = build_model(Model(), classes, 16, 7).state_dict(), str(tmp_path / "w.safetensors")
    save_file(source, path)
    drawn, told = build_model(Model(), 3, 16, 0), list[str]()
    found = build_model(Model(weights=path), 3, 16, 0, say=told.append).state_dict()
    head = head_of(Model(), drawn)
    assert head == ("7.weight", "7.bias")
    assert all(torch.equal(found[key], (drawn.state_dict() if key in head else source)[key]) for key in found)
    assert told == [
        f"model.weights has a head for {classes} classes, and this run has 3: all is taken from it but 7.weight and 7.bias, "
        "which start at random"
    ]
    assert "7.weight" in refusal(tmp_path / "w.safetensors"), "where nobody is told"


def test_what_fits_is_not_spoken_of_and_what_does_not_elsewhere_is_refused(tmp_path: Path) -> None:
    told, path = list[str](), tmp_path / "w.safetensors"
    save_file(build_model(Model(), 3, 16, 7).state_dict(), path)
    build_model(Model(weights=str(path)), 3, 16, 0, say=told.append)
    for spoilt in (
        {"0.bias": torch.zeros(2)},
        {"7.bias": torch.zeros(4)},
        {"7.bias": torch.tensor(1.0)},
        {"more": torch.zeros(1)},
    ):
        save_file({**build_model(Model(), 5, 16, 7).state_dict(), **spoilt}, path)
        with pytest.raises(SettingError, match="does not fit the classifier"):
            build_model(Model(weights=str(path)), 3, 16, 0, say=told.append)
    assert [text for text in told if " 5 classes" not in text] == []


@pytest.mark.parametrize("content", [b"", b"no tensors at all", b"\xff" * 64], ids=["empty", "text", "bytes"])
def test_a_file_that_is_no_safetensors_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "w.safetensors").write_bytes(content)
    refusal(tmp_path / "w.safetensors")


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    assert device_of("cpu") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device_of("auto") == torch.device("cpu")
    with pytest.raises(SettingError, match=r"device = 'cuda'.*'auto' or 'cpu'"):
        device_of("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert device_of("auto") == device_of("cuda") == torch.device("cuda")


@pytest.mark.parametrize("drawn", [True, False])
def test_the_head_alone_is_trained_where_that_is_asked_for(drawn: bool) -> None:
    """Whether weights are drawn or given, and its start is that of the model which is trained whole."""
    settings = Model(name="conv4", train="head")
    whole = build_model(Model(name="conv4"), 3, 8, 0).state_dict()
    model = build_model(settings, 3, 8, 0, None if drawn else whole)
    assert {name for name, p in model.named_parameters() if p.requires_grad} == {*head_of(settings, model)}
    assert all(torch.equal(tensor, whole[name]) for name, tensor in model.state_dict().items())


def told_of(form: Form | int, factory: Any) -> Any:
    return arguments(factory, "mine", 7, Form.at(form))


def test_a_factory_is_given_what_its_parameters_are_called_after() -> None:
    row, text = Form((30,), "float32"), Form((16,), "int64", 96)
    assert told_of(row, lambda outputs, shape: None) == [7, (30,)]
    assert told_of(8, lambda classes, image_size, depth=3: None) == [7, 8]
    assert told_of(8, lambda n, size: None) == [7, 8]  # by place, as factories always were
    assert told_of(8, lambda *given: None) == [7, 8]
    assert told_of(text, lambda vocabulary, outputs: None) == [96, 7]
    assert told_of(row, lambda: None) == [] and told_of(8, lambda shape: None) == [(3, 8, 8)]


def test_inputs_that_an_architecture_does_not_take_are_refused() -> None:
    row = Form((30,), "float32")
    with pytest.raises(
        SettingError, match=r"model.name = 'cnn' takes pictures, and the data set has float32 inputs of shape \(30,\)"
    ):
        build_model(Model(), 3, row, 0)
    with pytest.raises(SettingError, match="model.name = 'mine' reads texts of tokens, and the data set has pictures of 8 x 8"):
        told_of(8, lambda outputs, vocabulary: None)


def test_only_bytes_are_scaled() -> None:
    assert to_input(torch.tensor([[0, 255]], dtype=torch.uint8)).tolist() == [[-1.0, 1.0]]
    for kept in (torch.tensor([[0.5, 255.0]]), torch.tensor([[3, 9]])):
        assert to_input(kept) is kept


class Holding(nn.Module):
    """Of its tensors one is in its state; the others are drawn with it, and are counted up."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.plain = nn.Parameter(torch.zeros(3)), torch.randn(3)
        self.register_buffer("kept", torch.randn(3), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.get_buffer("kept").add_(1)
        return self.weight + self.plain + self.get_buffer("kept")


def test_tensors_that_are_not_in_a_state_are_those_of_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients build theirs out of the weights that they are sent."""
    monkeypatch.setitem(vars(sys.modules[__name__]), "made", lambda classes, image_size: Holding())
    settings, x = Model(name=f"{__name__}:made"), torch.zeros(1)
    first, other = (build_model(settings, 3, 16, seed)(x) for seed in (0, 1))
    assert not torch.equal(first, other)
    for seed, drawn in ((0, first), (0, first), (1, other)):
        torch.testing.assert_close(build_model(settings, 3, 16, seed, {"weight": torch.ones(3)})(x), drawn + 1)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(5, 4), nn.Linear(4, 5, bias=False)
        self.head.weight = self.embedding.weight


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = self.first


def normed() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (Tied, "holds one tensor under two names, 'embedding.weight' and 'head.weight'; keep it under one"),
        (Twice, "holds one tensor under two names, 'first.weight' and 'second.weight'; keep it under one"),
        (normed, r"has a parametrization on layer '1' \(weight_norm and the like\), which cannot be trained here; leave it out"),
    ],
)
def test_what_has_no_tensors_of_its_own_is_refused(make: Any, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients' copies are made name by name."""
    monkeypatch.setitem(vars(sys.modules[__name__]), "made", lambda classes, image_size: make())
    with pytest.raises(SettingError, match=words) as caught:
        build_model(Model(name=f"{__name__}:made"), 3, 16, 0)
    assert len(str(caught.value).splitlines()) == 1


class Net(nn.Module):
    """Two layers, whose outputs `between` changes."""

    def __init__(self, size: int = 16) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(3 * size * size, 6), nn.Linear(6, 3)

    def between(self, x: torch.Tensor) -> torch.Tensor:
        return x.relu()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.head(self.between(self.first(images.flatten(1))))
        return found


class Shifted(Net):
    def __init__(self, persistent: bool | None) -> None:
        super().__init__()
        places = torch.arange(6.0)
        if persistent is None:
            self.places = places
        else:
            self.register_buffer("places", places, persistent)

    def between(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.places


class Listed(Net):
    def __init__(self) -> None:
        super().__init__()
        self.layers = [nn.Flatten(), self.first, nn.ReLU(), self.head]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            images = layer(images)
        return images


class Hooked(Net):
    def __init__(self) -> None:
        super().__init__()
        self.first.register_forward_hook(self.keep)

    def keep(self, module: nn.Module, inputs: Any, outputs: torch.Tensor) -> None:
        self.kept = outputs

    def between(self, x: torch.Tensor) -> torch.Tensor:
        return self.kept.square()


class Counted(Net):
    def __init__(self) -> None:
        super().__init__()
        self.factors = [each.item() for each in torch.linspace(0.5, 1, 6)]

    def between(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.tensor(self.factors)


OWN = [lambda: Shifted(True), lambda: Shifted(False), lambda: Shifted(None), Listed, Hooked, Counted, Net]


def placed(make: Any, monkeypatch: pytest.MonkeyPatch, **facts: Any) -> Model:
    """The settings of a model of one's own."""

    def made(classes: int, image_size: int) -> nn.Module:
        found: nn.Module = make()
        return found

    vars(made).update(facts)
    monkeypatch.setitem(vars(sys.modules[__name__]), "made", made)
    _empty.cache_clear()
    return Model(name=f"{__name__}:made")


@pytest.mark.parametrize("make", OWN)
def test_weights_that_came_make_the_model_that_they_were_of(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it knows beside its state: buffers that do not travel, plain tensors, lists of its layers, hooks."""
    settings, images = placed(make, monkeypatch), torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    model = build_model(settings, 3, 16, 0)
    came = build_model(settings, 3, 16, 0, {name: tensor.clone() for name, tensor in model.state_dict().items()})
    assert torch.equal(came(images), model(images))
    came(images).sum().backward()
    assert all(parameter.grad is not None for parameter in came.parameters())


def test_half_precision_stays_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Though its numbers travel as float32."""
    settings = placed(lambda: Net().bfloat16(), monkeypatch)
    state = build_model(settings, 3, 16, 0).state_dict()
    came = build_model(settings, 3, 16, 0, {name: tensor.float() for name, tensor in state.items()})
    assert all(tensor.dtype == torch.bfloat16 and torch.equal(tensor, state[name]) for name, tensor in came.state_dict().items())


def turning() -> nn.Module:
    net = Net()
    net.phase = nn.Parameter(torch.ones(6, dtype=torch.complex64))
    return net


@pytest.mark.parametrize(
    ("make", "train", "words"),
    [
        (lambda: nn.Flatten(), "all", "has no parameters, so that nothing can be trained"),
        (lambda: Net().requires_grad_(False), "all", "has no parameter that requires a gradient"),
        (lambda: nn.Sequential(nn.Flatten(), nn.LazyLinear(3)), "all", "has the tensor '1.weight' without a shape"),
        (turning, "all", "has complex numbers in 'phase'"),
        (Net, "head", "says that its head is 'none', which has no tensors"),
    ],
)
def test_what_cannot_be_trained_is_refused(make: Any, train: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = placed(make, monkeypatch, **({"head": "none"} if train == "head" else {}))
    with pytest.raises(SettingError, match=words) as caught:
        build_model(Model(name=settings.name, train=train), 3, 16, 0)
    assert len(str(caught.value).splitlines()) == 1


class Bare(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3 * 16 * 16, 3))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1) @ self.weight


def test_weights_of_no_layer_are_the_head_and_cannot_be_taken_off(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = placed(Bare, monkeypatch)
    model = build_model(settings, 3, 16, 0)
    assert head_of(settings, model) == ("weight",)
    with pytest.raises(SettingError, match="has no layer that is its head"):
        behead(settings, model)


def test_a_head_is_trained_on_features_that_stay() -> None:
    """Batch normalisation's statistics among them."""
    model = build_model(Model(name="resnet20", train="head"), 3, 8, 0).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    images = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(model(images), model.eval()(images))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
