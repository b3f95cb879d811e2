"""What every model keeps to, an installed package's own among them; each check can be called for any model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedwarm.core.inputs import Form
from fedwarm.models import Model, build_model
from fedwarm.norms import STATISTICS, mixing, normalising
from fedwarm.settings.fields import SettingError
from fedwarm.settings.kinds import MODELS
from fedwarm.settings.registry import Kind

Check = Callable[[Kind[Any], str], None]
CLASSES, SIZE = 4, 32


def form_of(name: str) -> Form:
    """Inputs that a model takes: pictures, or tokens of a text."""
    try:
        build_model(Model(name=name), CLASSES, SIZE, 0)
    except SettingError:
        return Form((12,), "int64", 40)
    return Form.picture(SIZE)


def made(name: str, seed: int = 5) -> nn.Module:
    return build_model(Model(name=name), CLASSES, form_of(name), seed)


def pixels(count: int, name: str = "") -> Tensor:
    form, draws = form_of(name) if name else Form.picture(SIZE), torch.Generator().manual_seed(0)
    if form.pictures:
        return torch.randn(count, *form.shape, generator=draws)
    return torch.randint(form.vocabulary, (count, *form.shape), generator=draws)


def check_shapes(kind: Kind[Any], name: str) -> None:
    """Inputs (n, ..) give logits (n, classes), finite, for any number of classes."""
    for classes in (2, CLASSES):
        with torch.no_grad():
            logits = build_model(Model(name=name), classes, form_of(name), 0)(pixels(2, name))
        assert logits.shape == (2, classes) and logits.dtype == torch.float32 and logits.isfinite().all()


def check_state(kind: Kind[Any], name: str) -> None:
    """All that a model knows is its parameters and running statistics, of float32, and it is built from them alone."""
    model = made(name)
    state = model.state_dict()
    learned = {key for key in normalising(model) if key.rpartition(".")[2] in STATISTICS}
    assert state.keys() == dict(model.named_parameters()).keys() | learned, "other buffers do not travel"
    assert all(tensor.dtype == torch.float32 and tensor.numel() for tensor in state.values())
    twin = build_model(Model(name=name), CLASSES, form_of(name), 99, {key: tensor.clone() for key, tensor in state.items()})
    with torch.no_grad():
        assert torch.equal(twin.eval()(pixels(2, name)), model.eval()(pixels(2, name)))


def check_seed(kind: Kind[Any], name: str) -> None:
    """The seed alone decides the first weights, and nobody's random numbers are used up."""
    before = torch.get_rng_state()
    first, again, other = (made(name, seed).state_dict() for seed in (5, 5, 6))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not all(torch.equal(first[key], other[key]) for key in first)


def check_alone(kind: Kind[Any], name: str) -> None:
    """An image is judged alone, in training mode, too, but for layers of batch normalisation."""
    model, images = made(name), pixels(3, name)
    model.train(not [*mixing(model)])
    with torch.no_grad():
        torch.testing.assert_close(model(images)[:1], model(images[:1]), rtol=1e-4, atol=1e-5)


def check_trains(kind: Kind[Any], name: str) -> None:
    """Every parameter gets a gradient, and a few steps along it lower the loss."""
    model, images, labels = made(name).train(), pixels(4, name), torch.arange(4) % CLASSES
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(3):
        loss = nn.functional.cross_entropy(model(images), labels)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        losses.append(loss.item())
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert losses[-1] < losses[0]


CHECKS: tuple[Check, ...] = (check_shapes, check_state, check_seed, check_alone, check_trains)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", MODELS)
def test_contract(name: str, check: Check) -> None:
    check(MODELS, name)
