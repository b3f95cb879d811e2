"""Quantizers on a model and off again."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F
from torch.nn.utils import parametrize

from fedwarm.models.cnn import cnn
from fedwarm.models.resnet18 import resnet18
from fedwarm.quantize.learned import LearnedWeight
from fedwarm.quantize.ranges import Running, weight_grid
from fedwarm.quantize.surgery import Noisy, Rounded, RoundedInput, Width, attach, attached, input_layers, layers, master
from fedwarm.quantize.uniform import FLOAT_BITS, Scheme, quantize
from fedwarm.settings.fields import SettingError

SCHEME = Scheme()


def small() -> nn.Module:
    torch.manual_seed(0)
    return cnn(3, 8)


def pictures(n: int = 4) -> Tensor:
    return torch.randn(n, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def rounded(model: nn.Module, bits: int) -> dict[str, nn.Module]:
    return {name: Rounded(Width(bits), SCHEME) for name in layers(model)}


def test_which_layers() -> None:
    model = small()
    assert list(layers(model)) == ["0", "3", "7"] and list(layers(model, skip_first_last=True)) == ["3"]
    assert list(input_layers(model)) == ["3", "7"] and list(input_layers(model, skip_first_last=True)) == ["3"]
    names = list(layers(resnet18(10, 32)))
    assert (names[0], names[-1], len(names)) == ("conv1", "fc", 21)
    assert list(layers(nn.Linear(2, 2))) == [""] and not layers(nn.ReLU())


def test_a_quantized_forward_and_its_gradient() -> None:
    """As quantizing by hand: the same output, and gradients that pass straight through to the float weights."""
    model, by_hand, x = small(), small(), pictures()
    detach = attach(model, rounded(model, 3), {})
    out = model.train()(x)
    out.square().sum().backward()
    handed = {}
    for name, p in by_hand.named_parameters():
        handed[name] = quantize(p, weight_grid(p, 3, SCHEME)) if name.endswith("weight") else p
    reference = functional_call(by_hand, handed, (x,))
    reference.square().sum().backward()
    assert torch.equal(out, reference)
    detach()
    for (name, ours), (_, theirs) in zip(model.named_parameters(), by_hand.named_parameters(), strict=True):
        assert ours.grad is not None and theirs.grad is not None and torch.equal(ours.grad, theirs.grad), name


@pytest.mark.parametrize("build", [small, lambda: resnet18(3, 8)], ids=["cnn", "resnet18"])
def test_afterwards_everything_is_as_it_was(build: object) -> None:
    model: nn.Module = build()  # type: ignore[operator]
    state = {name: t.clone() for name, t in model.state_dict().items()}
    parameters = dict(model.named_parameters())
    kinds = [type(m) for m in model.modules()]
    inputs = {name: RoundedInput(Width(4), SCHEME) for name in input_layers(model)}
    with attached(model, rounded(model, 4), inputs):
        assert list(model.state_dict()) != list(state)
        model.train()(torch.zeros(2, 3, 8, 8))
        weight = master(layers(model)[next(iter(layers(model)))])
        assert any(weight is p for p in parameters.values())
    assert list(model.state_dict()) == list(state)
    assert all(torch.equal(t, state[name]) for name, t in model.state_dict().items())
    assert [(n, id(p)) for n, p in model.named_parameters()] == [(n, id(p)) for n, p in parameters.items()]
    assert [type(m) for m in model.modules()] == kinds
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_it_is_taken_off_when_a_block_fails() -> None:
    model = small()
    with pytest.raises(KeyError), attached(model, rounded(model, 4), {}):
        raise KeyError
    assert not any(parametrize.is_parametrized(m) for m in model.modules())


def test_a_second_parametrization_is_refused() -> None:
    model = small()
    with attached(model, rounded(model, 4), {}), pytest.raises(SettingError, match="0.weight has a parametrization already"):
        attach(model, rounded(model, 2), {})
    assert list(model.state_dict())[:2] == ["0.weight", "0.bias"]


def test_a_weight_that_is_made_of_other_parameters_is_refused() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    del model[1].weight
    model[1].weight = torch.ones(2, 4)  # as weight_norm's hooks leave it
    with pytest.raises(SettingError, match="layer '1' has no weight of its own"):
        layers(model)


def test_in_evaluation_mode_and_at_32_bits_the_model_is_the_float_one() -> None:
    model, plain, x = small(), small(), pictures()
    width = Width(2)
    weights = {name: Rounded(width, SCHEME) for name in layers(model)}
    with attached(model, weights, {name: RoundedInput(width, SCHEME) for name in input_layers(model)}):
        assert torch.equal(model.eval()(x), plain(x))
        assert not torch.equal(model.train()(x), plain(x))
        width.bits = FLOAT_BITS
        assert torch.equal(model.train()(x), plain(x))


def test_inputs_are_rounded_by_their_running_range() -> None:
    model, x = small(), pictures()
    seen: list[Tensor] = []
    with attached(model, {}, {"7": RoundedInput(Width(3), SCHEME)}):
        layer = model.get_submodule("7")
        layer.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
        model.train()(x)
    before = nn.Sequential(*list(model)[:7])(x)  # type: ignore[call-overload]
    expected = Running("mse").update(before, 3).nearest(before)
    assert torch.equal(seen[0], expected) and len(seen[0].unique()) <= 8


def test_quantizers_parameters_belong_to_the_model_while_attached() -> None:
    model = small()
    learners = {name: LearnedWeight(master(layer), 4, SCHEME) for name, layer in layers(model).items()}
    before = len(list(model.parameters()))
    with attached(model, learners, {}):
        assert len(list(model.parameters())) == before + 3
    assert len(list(model.parameters())) == before


@pytest.mark.parametrize("kind", ["rounded", "per channel", "noisy", "learned"])
def test_gradients_of_single_examples(kind: str) -> None:
    """As private training takes them, by torch.func, against one example after the other."""
    model, x, labels = small(), pictures(), torch.tensor([0, 1, 2, 0])
    weights: dict[str, nn.Module] = {}
    for name, layer in layers(model).items():
        if kind == "noisy":
            noisy = Noisy(Width(3), SCHEME)
            noisy.noise = torch.rand(master(layer).shape, generator=torch.Generator().manual_seed(2)) - 0.5
            weights[name] = noisy
        elif kind == "learned":
            weights[name] = LearnedWeight(master(layer), 3, SCHEME)
        else:
            weights[name] = Rounded(Width(3), Scheme(per_channel=kind == "per channel", full_range=kind == "per channel"))
    with attached(model.train(), weights, {}):
        parameters = dict(model.named_parameters())

        def loss(p: dict[str, Tensor], one: Tensor, label: Tensor) -> Tensor:
            return F.cross_entropy(functional_call(model, p, (one[None],)), label[None])

        together = vmap(grad(loss), in_dims=(None, 0, 0))({n: p.detach() for n, p in parameters.items()}, x, labels)
        for i in range(len(x)):
            model.zero_grad()
            F.cross_entropy(model(x[i : i + 1]), labels[i : i + 1]).backward()
            for name, p in parameters.items():
                assert p.grad is not None
                torch.testing.assert_close(together[name][i], p.grad, rtol=1e-4, atol=1e-6)


def test_a_model_with_quantizers_can_be_copied() -> None:
    model = small()
    with attached(model, rounded(model, 3), {}):
        twin = copy.deepcopy(model)
        assert torch.equal(twin.train()(pictures()), model.train()(pictures()))
