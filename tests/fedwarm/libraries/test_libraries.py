"""Models of libraries by name: they are built for a run's classes and pictures, and refused in one line."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from fedwarm.catalogue import parse
from fedwarm.models import Model, build_model, head_of, to_input
from fedwarm.settings.fields import SettingError
from fedwarm.settings.kinds import LIBRARIES, MODELS

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def refusal(name: str, size: int = 32) -> str:
    with pytest.raises(SettingError) as error:
        build_model(Model(name=name), 3, size, 0)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("name", ["torchvision:mobilenet_v3_small", "torchvision:squeezenet1_1", "timm:resnet10t"])
def test_a_model_by_name(name: str) -> None:
    if name.startswith("timm"):
        pytest.importorskip("timm")
    settings = Model(name=name)
    few, many = (build_model(settings, classes, 32, 0).eval() for classes in (3, 4))
    images = to_input(torch.zeros(2, 3, 32, 32, dtype=torch.uint8))
    with torch.no_grad():
        assert few(images).shape == (2, 3) and many(images).shape == (2, 4)
    differ = [key for key, value in few.state_dict().items() if value.shape != many.state_dict()[key].shape]
    assert list(head_of(settings, few)) == differ
    assert all(tensor.dtype == torch.float32 for tensor in few.state_dict().values()), "a counter has no mean"
    assert (MODELS.load(name).mean, MODELS.load(name).deviation) == IMAGENET and few._forward_pre_hooks


@pytest.mark.parametrize("name", ["torchvision:vit_b_32", "timm:vit_tiny_patch16_224"])
def test_transformers_are_built_for_the_pictures_that_there_are(name: str) -> None:
    if name.startswith("timm"):
        pytest.importorskip("timm")
    with torch.device("meta"):
        shapes = [build_model(Model(name=name, input_size=s), 3, 32, 0).state_dict() for s in (0, 64)]
    positions = [next(t.shape[1] for key, t in shape.items() if "pos_embed" in key) for shape in shapes]
    assert positions[0] < positions[1]


def test_pretrained_weights_of_a_library_fit_but_for_the_head(tmp_path: Path) -> None:
    from torchvision.models import squeezenet1_1

    source = squeezenet1_1(num_classes=1000).state_dict()
    save_file(source, tmp_path / "w.safetensors")
    told: list[str] = []
    settings = Model(name="torchvision:squeezenet1_1", weights=str(tmp_path / "w.safetensors"))
    found = build_model(settings, 5, 32, 0, say=told.append).state_dict()
    assert found["classifier.1.weight"].shape[0] == 5 and "1000 classes" in told[0]
    assert all(torch.equal(found[key], value) for key, value in source.items() if not key.startswith("classifier.1."))


def test_names_that_a_library_lacks_are_refused_with_the_near_ones() -> None:
    assert "did you mean resnet18" in refusal("torchvision:resnt18")
    assert "is not a model of torchvision" in refusal("torchvision:fcn_resnet50"), "it is no classifier"
    assert "cannot be built for pictures of 20 pixels" in refusal("torchvision:vit_b_16", 20)
    pytest.importorskip("timm")
    assert "is not a model of timm" in refusal("timm:nothing")


def test_a_library_that_is_not_installed_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    text = refusal("timm:resnet18")
    assert text == "model.name = 'timm:resnet18' needs the package timm, which is not installed; pip install fedwarm[timm]"


def test_a_module_of_ones_own_is_taken_where_no_library_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "from torch import nn\n\ndef make(classes, image_size):\n"
    code += "    return nn.Sequential(nn.Flatten(), nn.Linear(3 * image_size**2, classes))\n"
    (tmp_path / "somebodys_nets.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    assert parse({"model.name": "somebodys_nets:make"}).of(Model).name == "somebodys_nets:make"
    assert len([*build_model(Model(name="somebodys_nets:make"), 3, 8, 0).parameters()]) == 2


@pytest.mark.parametrize("library", LIBRARIES)
def test_every_library_gives_factories_by_name(library: str) -> None:
    found = LIBRARIES.load(library)("resnet18")
    assert found is LIBRARIES.load(library)("resnet18") and callable(found) and found.name == "resnet18"
