"""What every head keeps to: names and shapes of the architecture, numbers of other layers, no draws, and what `fixed` says."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from fedwarm.heads import fixed
from fedwarm.models import Model, build_model, head_of
from fedwarm.scopes import fixed_in
from fedwarm.settings.kinds import HEADS

CLASSES, SIZE = 3, 16


def made(name: str, state: dict[str, Tensor] | None = None, seed: int = 5) -> nn.Module:
    return build_model(Model(name="resnet8", head=name), CLASSES, SIZE, seed, state)


def pixels(count: int) -> Tensor:
    return torch.randn(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", HEADS)
def test_all_but_the_last_layer_is_the_architecture_s(name: str) -> None:
    plain, before = made("own").state_dict(), torch.get_rng_state()
    model = made(name)
    assert torch.equal(torch.get_rng_state(), before)
    mine, head = model.state_dict(), head_of(Model(name="resnet8", head=name), model)
    assert {key: t.shape for key, t in mine.items()} == {key: t.shape for key, t in plain.items()}
    assert all(torch.equal(mine[key], plain[key]) for key in plain.keys() - {*head})


@pytest.mark.parametrize("name", HEADS)
def test_what_is_fixed_is_the_same_for_all_seeds_and_never_learns(name: str) -> None:
    model = made(name).train()
    head = {*head_of(Model(name="resnet8", head=name), model)} if fixed(HEADS.load(name)) else set()
    assert fixed_in(model) == head
    assert all(torch.equal(made(name, seed=6).state_dict()[key], model.state_dict()[key]) for key in head)
    nn.functional.cross_entropy(model(pixels(4)), torch.arange(4) % CLASSES).backward()  # type: ignore[no-untyped-call]
    learned = {key for key, p in model.named_parameters() if p.grad is not None and p.grad.isfinite().all() and p.grad.any()}
    assert learned == dict(model.named_parameters()).keys() - head


@pytest.mark.parametrize("name", HEADS)
def test_a_state_makes_the_same_model_and_so_does_what_is_trained_of_it(name: str) -> None:
    model = made(name, seed=6)
    state = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    trained = {key: tensor for key, tensor in state.items() if key not in fixed_in(model)}
    with torch.no_grad():
        wanted = model.eval()(pixels(2))
        assert all(torch.equal(made(name, found).eval()(pixels(2)), wanted) for found in (state, trained))
