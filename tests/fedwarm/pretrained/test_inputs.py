"""Input as weights expect it: another mean and deviation of colours, another size; nothing by default."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedwarm.models import Model, build_model, to_input
from fedwarm.pretrained.inputs import colours
from fedwarm.settings.fields import SettingError

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def pictures(size: int = 16) -> Tensor:
    return torch.randint(0, 256, (3, 3, size, size), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


def seen(settings: Model, size: int = 16) -> Tensor:
    """What reaches a model's first layer."""
    model, found = build_model(settings, 3, size, 0).eval(), list[Tensor]()
    layer = next(part for part in model.modules() if isinstance(part, (nn.Conv2d, nn.Linear)))
    layer.register_forward_pre_hook(lambda part, inputs: found.append(inputs[0]))
    with torch.no_grad():
        model(to_input(pictures(size)))
    return found[0]


def test_by_default_nothing_comes_between() -> None:
    assert not build_model(Model(), 3, 16, 0)._forward_pre_hooks
    assert torch.equal(seen(Model()), to_input(pictures()))
    half = Model(mean="0.5", std="0.5,0.5,0.5")
    assert not build_model(half, 3, 16, 0)._forward_pre_hooks


@pytest.mark.parametrize("settings", [Model(name="resnet20"), Model(mean="0.485,0.456,0.406", std="0.229, 0.224, 0.225")])
def test_mean_and_deviation_of_pixels_in_0_1(settings: Model) -> None:
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    torch.testing.assert_close(seen(settings), (pictures().float() / 255 - mean) / std, rtol=0, atol=2e-6)


def test_another_size_and_a_model_that_is_built_for_it() -> None:
    settings = Model(name="lenet5", input_size=24)
    wanted = F.interpolate(to_input(pictures()), size=(24, 24), mode="bilinear", antialias=True)
    assert torch.equal(seen(settings), wanted)
    assert {n: t.shape for n, t in build_model(settings, 3, 16, 0).state_dict().items()} == {
        n: t.shape for n, t in build_model(Model(name="lenet5"), 3, 24, 0).state_dict().items()
    }


def test_a_twin_of_a_state_has_them_too() -> None:
    settings = Model(name="resnet20", input_size=20)
    model = build_model(settings, 3, 16, 0).eval()
    twin = build_model(settings, 3, 16, 0, {name: tensor.clone() for name, tensor in model.state_dict().items()}).eval()
    with torch.no_grad():
        assert torch.equal(twin(to_input(pictures())), model(to_input(pictures())))


def test_texts_that_are_no_colours_are_refused() -> None:
    assert colours("model.mean", " ", None) is None and colours("model.mean", "0.1", MEAN) == (0.1,) * 3
    for text in ("0.1,0.2", "a,b,c", "124,116,104", "nan"):
        with pytest.raises(SettingError, match=r"model.mean = .* is not three numbers"):
            build_model(Model(mean=text), 3, 16, 0)
    with pytest.raises(SettingError, match=r"model.std has a number that is not above 0"):
        build_model(Model(std="0.1,0,0.1"), 3, 16, 0)
