"""What every normalisation keeps to: names and numbers of what remains, floats alone, no draws, an empty twin that fits."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from fedwarm.models import Model, build_model
from fedwarm.norms import normalising
from fedwarm.settings.kinds import NORMS

CLASSES, SIZE = 3, 16


def made(name: str, state: dict[str, Tensor] | None = None) -> nn.Module:
    return build_model(Model(name="resnet8", norm=name), CLASSES, SIZE, 5, state)


def pixels(count: int) -> Tensor:
    return torch.randn(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", NORMS)
def test_what_remains_has_its_name_and_its_numbers(name: str) -> None:
    plain, before = made("own"), torch.get_rng_state()
    model = made(name)
    assert torch.equal(torch.get_rng_state(), before)
    mine, own = model.state_dict(), plain.state_dict()
    remaining = own.keys() - set(normalising(plain))
    assert remaining <= mine.keys()
    assert all(torch.equal(mine[key], own[key]) for key in remaining)
    new = mine.keys() - own.keys() - set(normalising(model))
    assert all(key.endswith(".bias") and not mine[key].any() for key in new)
    assert all(tensor.dtype == torch.float32 for tensor in mine.values()), "a mean of the wire's arrays is taken"


@pytest.mark.parametrize("name", NORMS)
def test_a_state_makes_the_same_model(name: str) -> None:
    model = made(name)
    model.train()(pixels(4))  # statistics, where there are any
    state = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    twin, stored = made(name, state).eval(), made(name)
    stored.load_state_dict(state)
    with torch.no_grad():
        wanted = model.eval()(pixels(2))
        assert torch.equal(twin(pixels(2)), wanted) and torch.equal(stored.eval()(pixels(2)), wanted)


@pytest.mark.parametrize("name", NORMS)
def test_every_parameter_learns(name: str) -> None:
    model = made(name).train()
    nn.functional.cross_entropy(model(pixels(4)), torch.arange(4) % CLASSES).backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in model.parameters())
