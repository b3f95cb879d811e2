"""What every scope of training keeps to: answers at the start, what it does not train, and a way back into plain tensors."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from fedwarm.models import Model, build_model, head_of
from fedwarm.scopes import adds, fixed_in, merged, plain, whole
from fedwarm.settings.kinds import SCOPES

CLASSES, SIZE, SEED = 3, 16, 5
MODELS = [Model(name="resnet8"), Model(name="resnet8", norm="batch"), Model(name="lenet5"), Model(norm="standardised-weights")]


def made(model: Model, scope: str, state: dict[str, Tensor] | None = None) -> nn.Module:
    return build_model(replace(model, train=scope), CLASSES, SIZE, SEED, state)


def pixels(count: int) -> Tensor:
    return torch.randn(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))


def stepped(model: nn.Module) -> nn.Module:
    """The model after some steps of training."""
    model.train()
    for _ in range(2):  # the second factor of an adapter has a gradient once the first step moved the other
        optimiser = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(pixels(6)), torch.arange(6) % CLASSES).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return model


@pytest.mark.parametrize("settings", MODELS, ids=lambda m: f"{m.name}-{m.norm}")
@pytest.mark.parametrize("scope", SCOPES)
def test_the_start_answers_as_the_architecture_does_and_draws_no_other_weights(scope: str, settings: Model) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    model, whole_model = made(settings, scope), made(settings, "all")
    assert torch.equal(torch.get_rng_state(), before)
    own = plain(model, model.state_dict())
    assert own.keys() == whole_model.state_dict().keys()
    assert all(torch.equal(own[name], tensor) for name, tensor in whole_model.state_dict().items())
    with torch.no_grad():
        assert torch.equal(model.eval()(pixels(2)), whole_model.eval()(pixels(2)))


@pytest.mark.parametrize("settings", MODELS, ids=lambda m: f"{m.name}-{m.norm}")
@pytest.mark.parametrize("scope", SCOPES)
def test_training_changes_every_tensor_that_is_not_fixed_and_no_other(scope: str, settings: Model) -> None:
    model = made(settings, scope)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    after = stepped(model).state_dict()
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert changed == after.keys() - fixed_in(model)
    assert {*head_of(settings, model)} <= changed
    assert (not fixed_in(model)) is whole(SCOPES.load(scope))


@pytest.mark.parametrize("scope", SCOPES)
def test_what_is_trained_makes_the_same_model(scope: str) -> None:
    model = stepped(made(MODELS[1], scope))
    state = {name: tensor for name, tensor in model.state_dict().items() if name not in fixed_in(model)}
    with torch.no_grad():
        assert torch.equal(made(MODELS[1], scope, state).eval()(pixels(2)), model.eval()(pixels(2)))


@pytest.mark.parametrize("settings", MODELS, ids=lambda m: f"{m.name}-{m.norm}")
@pytest.mark.parametrize("scope", SCOPES)
def test_a_trained_model_is_one_of_its_architecture(scope: str, settings: Model) -> None:
    model = stepped(made(settings, scope)).eval()
    state = dict(merged(SCOPES.load(scope), model.state_dict(), ()))
    assert state.keys() == made(settings, "all").state_dict().keys()
    if not adds(SCOPES.load(scope)):
        assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    with torch.no_grad():
        assert torch.allclose(made(settings, "all", state).eval()(pixels(2)), model(pixels(2)), atol=1e-5)


@pytest.mark.parametrize("scope", SCOPES)
def test_what_follows_from_the_seed_is_drawn_once(scope: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing it takes hundreds of times as long as to take what travelled; each model has tensors of its own."""
    first = made(MODELS[0], scope)
    state = {name: tensor for name, tensor in first.state_dict().items() if name not in fixed_in(first)}
    before = made(MODELS[0], scope, state)
    monkeypatch.setattr("fedwarm.models._built", None)
    again = made(MODELS[0], scope, state).state_dict()
    assert all(torch.equal(tensor, first.state_dict()[name]) for name, tensor in again.items())
    assert not any(again[name].data_ptr() == before.state_dict()[name].data_ptr() for name in fixed_in(first))


def test_what_neither_travels_nor_follows_from_the_seed_is_missed() -> None:
    model = made(MODELS[0], "head")
    state = {name: tensor for name, tensor in model.state_dict().items() if name not in fixed_in(model)}
    with pytest.raises(Exception, match="does not hold the layers of model.weights that are not trained"):
        build_model(replace(MODELS[0], train="head", weights="w.safetensors"), CLASSES, SIZE, SEED, state)
    with pytest.raises(RuntimeError, match="Missing key"):
        made(MODELS[0], "head", dict(list(state.items())[:-1]))
