"""Normalisations one by one: scaled weight standardisation against its closed form, batch statistics, groups, and none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from fedwarm.core.arrays import from_module
from fedwarm.models import Model, build_model
from fedwarm.norms import LAYERS, Scaled, blocks, floored, mixing, normalising, prepare, weights
from fedwarm.norms.standardised_weights import GAMMA, StandardisedConv2d, StandardisedWeights, standardised
from fedwarm.quantize.export import export, load_exported
from fedwarm.settings.fields import SettingError
from fedwarm.settings.kinds import MODELS, NORMS


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def layers(model: nn.Module) -> list[nn.Module]:
    return [part for part in model.modules() if isinstance(part, LAYERS)]


def built(norm: str, name: str = "resnet8") -> nn.Module:
    return build_model(Model(name=name, norm=norm), 3, 16, 0)


def test_standardised_by_hand() -> None:
    found = standardised(torch.tensor([1.0, 2.0, 3.0, 6.0]).reshape(1, 1, 2, 2)).flatten()
    assert pytest.approx(1.712859, abs=1e-6) == GAMMA
    assert found.tolist() == pytest.approx([-0.915561, -0.457781, 0.0, 1.373342], abs=1e-5)


def test_a_channel_has_mean_nought_and_length_gamma_whatever_its_scale_and_shift() -> None:
    weight = drawn(4, 3, 3, 3)
    used = standardised(weight)
    torch.testing.assert_close(used.sum((1, 2, 3)), torch.zeros(4).double(), atol=1e-12, rtol=0)
    torch.testing.assert_close(used.square().sum((1, 2, 3)), torch.full((4,), GAMMA**2, dtype=torch.float64), atol=1e-12, rtol=0)
    scale, shift = drawn(4, 1, 1, 1).abs() + 0.5, drawn(4, 1, 1, 1)
    torch.testing.assert_close(standardised(scale * weight + shift), used, atol=1e-12, rtol=0)


def test_the_gradient_is_that_of_central_differences_and_knows_the_invariances() -> None:
    weight, along = drawn(2, 2, 3, 3).requires_grad_(), drawn(2, 2, 3, 3).flip(0)
    assert torch.autograd.gradcheck(standardised, (weight,))
    (standardised(weight) * along).sum().backward()
    assert weight.grad is not None
    centred = (weight - weight.mean((1, 2, 3), keepdim=True)).detach()
    for nothing in (weight.grad.sum((1, 2, 3)), (weight.grad * centred).sum((1, 2, 3))):
        torch.testing.assert_close(nothing, torch.zeros(2).double(), atol=1e-12, rtol=0)


def test_a_constant_channel_stays_finite() -> None:
    weight = torch.full((1, 2, 3, 3), 0.25, requires_grad=True)
    used = standardised(weight)
    used.sum().backward()
    assert not used.detach().any() and weight.grad is not None and weight.grad.isfinite().all()


def test_standardised_weights_travel_as_a_net_without_norms_does() -> None:
    net, plain = built("standardised-weights"), built("none")
    assert list(net.state_dict()) == list(plain.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), plain.state_dict().values(), strict=True))
    convolutions = [part for part in net.modules() if isinstance(part, nn.Conv2d)]
    assert convolutions and all(type(part) is StandardisedConv2d for part in convolutions)
    images = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(net.train()(images)[:1], net(images[:1]), rtol=1e-4, atol=1e-5)
        assert not torch.allclose(net(images), plain(images))


def test_the_default_and_the_groups_of_its_own_are_left_alone() -> None:
    for name in ("cnn", "resnet8"):
        bare, model = MODELS.load(name)(3, 32), build_model(Model(name=name), 3, 32, 0)
        assert str(bare) == str(model)
    assert str(built("group")) == str(built("own"))


def test_none_leaves_no_layer_and_batch_has_float_statistics() -> None:
    assert not layers(built("none")) and not normalising(built("none"))
    net = built("batch")
    assert all(isinstance(part, nn.BatchNorm2d) for part in layers(net)) and len(layers(net)) == 7
    kinds = {name.rpartition(".")[2] for name in normalising(net)}
    assert kinds == {"weight", "bias", "running_mean", "running_var"}
    assert len(normalising(net)) == 7 * 4


def test_a_variance_that_noise_brought_below_nought_leaves_answers_finite() -> None:
    net, images = built("batch").eval(), torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    plain = nn.BatchNorm2d(16).eval()
    layer = next(part for part in layers(net) if isinstance(part, nn.BatchNorm2d))
    seen = torch.randn(2, 16, 4, 4, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.equal(layer(seen), plain(seen))
        for tensor in (t for name, t in net.state_dict().items() if name.endswith("running_var")):
            tensor[::2] = -0.5
        assert net(images).isfinite().all()


def test_group_takes_the_place_of_batch_statistics() -> None:
    from fedwarm.norms.group import group

    net = nn.Sequential(nn.Conv2d(3, 24, 1), nn.BatchNorm2d(24), nn.Conv2d(24, 6, 1), nn.BatchNorm2d(6))
    group(net)
    assert [(part.num_groups, part.num_channels) for part in layers(net) if isinstance(part, nn.GroupNorm)] == [(6, 24), (1, 6)]


@pytest.mark.parametrize("norm", ["group", "batch"])
def test_a_model_without_such_layers_is_refused(norm: str) -> None:
    with pytest.raises(SettingError, match=rf"model.norm = '{norm}' .*use model.norm='own'"):
        built(norm, "cnn")


@pytest.mark.parametrize("norm", ["batch", "standardised-weights"])
def test_an_exported_file_knows_its_normalisation(tmp_path: Path, norm: str) -> None:
    net, path = built(norm).eval(), tmp_path / "w.safetensors"
    export(net, 32, "torch", path, Model(name="resnet8", norm=norm), 3, 16)
    images, run = torch.rand(2, 3, 16, 16), _without_gradient
    assert torch.equal(run(load_exported(path).eval(), images), run(net, images))


def _without_gradient(net: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    with torch.no_grad():
        return net(images)


@pytest.mark.parametrize(("name", "factor"), [("resnet8", 1.0), ("resnet18", 0.2)])
def test_branches_are_scaled_in_deep_nets(name: str, factor: float) -> None:
    model = built("standardised-weights", name)
    found = [part.factor for part in model.modules() if isinstance(part, Scaled)]
    assert found == ([factor] * len(blocks(model)) if factor != 1 else []) and not layers(model)


def test_a_branchs_factor_can_be_chosen() -> None:
    """x + a f(x) is affine in a: with the branch at 0 the block is its shortcut."""
    settings, image = Model(name="resnet8", norm="standardised-weights"), torch.rand(2, 3, 16, 16)
    none, half, whole = (
        build_model(replace(settings, own_settings=(StandardisedWeights(residual=factor),)), 3, 16, 0)[:4](image)
        for factor in (1e-12, 0.5, 1.0)
    )
    assert not torch.allclose(none, whole)
    inside = (whole > 0) & (none > 0) & (half > 0)
    torch.testing.assert_close(half[inside], ((none + whole) / 2)[inside])


def test_a_gain_multiplies_a_channel_and_travels() -> None:
    settings = Model(name="resnet8", norm="standardised-weights", own_settings=(StandardisedWeights(gain=True),))
    model, plain, image = build_model(settings, 3, 16, 0), built("standardised-weights"), torch.rand(1, 3, 16, 16)
    torch.testing.assert_close(model(image), plain(image))
    assert {name for name in model.state_dict() if name not in plain.state_dict()} == {
        f"{name}.gain" for name, part in model.named_modules() if isinstance(part, StandardisedConv2d)
    }
    with torch.no_grad():
        model[0].gain.mul_(2)
        torch.testing.assert_close(model[0](image), 2 * plain[0](image))  # biases are 0 at first


def net() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 8 * 8, 3))


def test_counters_of_steps_are_taken_out_and_passed_over() -> None:
    model, plain = net(), net().state_dict()
    prepare(model)
    assert "1.num_batches_tracked" in plain and model.state_dict().keys() == plain.keys() - {"1.num_batches_tracked"}
    for state in (plain, {name: tensor for name, tensor in plain.items() if "tracked" not in name}):
        model.load_state_dict(state)
        assert all(torch.equal(model.state_dict()[name], state[name]) for name in model.state_dict())
    with pytest.raises(RuntimeError, match="1.running_mean"):
        model.load_state_dict({name: tensor for name, tensor in plain.items() if "running_mean" not in name})


def test_an_average_over_all_batches_is_refused() -> None:
    with pytest.raises(SettingError, match=r"layer '0' of the classifier averages its statistics over all batches"):
        prepare(nn.Sequential(nn.BatchNorm2d(4, momentum=None)))


def test_frozen_statistics_stay_and_are_what_training_normalises_by() -> None:
    model, images = net(), torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    prepare(model, "frozen")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items() if "running" in name}
    model.train()
    assert model.training and not model[1].training and model[3].training and not [*mixing(model)]
    with torch.no_grad():
        assert torch.equal(model(images), model.eval()(images)), "no batch decides"
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in before.items())
    model.train()(images).sum().backward()
    assert model[1].weight.grad is not None, "its scale and shift are trained as ever"


def test_variances_below_nought_count_as_nought() -> None:
    state = {name: tensor.clone() for name, tensor in build_model(Model(name="resnet20"), 3, 16, 0).state_dict().items()}
    assert floored(state) is state
    state["bn1.running_var"][0] = -1.0
    model = build_model(Model(name="resnet20"), 3, 16, 0, state)
    assert model.state_dict()["bn1.running_var"][0] == 0.0 and state["bn1.running_var"][0] == -1.0


def test_statistics_are_no_weights() -> None:
    arrays = from_module(build_model(Model(name="resnet20"), 3, 16, 0))
    assert len(arrays) - len(weights(arrays)) == 2 * 19


@pytest.mark.parametrize(
    ("layer", "shape"), [(nn.BatchNorm1d(4), (2, 4)), (nn.GroupNorm(2, 4), (2, 4)), (nn.BatchNorm1d(4), (2, 4, 3))]
)
def test_batch_normalisation_takes_the_place_of_a_layer_whatever_that_goes_over(layer: nn.Module, shape: tuple[int, ...]) -> None:
    model, given = nn.Sequential(layer), drawn(*shape).float()
    NORMS.load("batch")(model)
    torch.testing.assert_close(model(given), nn.BatchNorm1d(4)(given))
    assert model.eval()(given).shape == shape
