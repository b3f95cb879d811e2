"""Steps along a told direction, and what goes with them."""

from __future__ import annotations

import pytest
import torch

from fedwarm.catalogue import parse
from fedwarm.settings.fields import SettingError
from fedwarm.training.directions import Mixed, Mixture, without_momentum


def test_a_gradient_is_mixed_with_the_direction() -> None:
    model = torch.nn.Linear(2, 1)
    model.weight.grad, model.bias.grad = torch.tensor([[1.0, -2.0]]), torch.tensor([4.0])
    Mixed(0.25, {"weight": torch.tensor([[4.0, 0.0]])}).gradient(model)
    assert torch.equal(model.weight.grad, torch.tensor([[3.25, -0.5]])) and model.bias.grad.item() == 4.0


def test_weights_that_others_reshape_are_found() -> None:
    model = torch.nn.Linear(2, 1, bias=False)
    torch.nn.utils.parametrize.register_parametrization(model, "weight", torch.nn.Identity())
    original = next(model.parameters())
    original.grad = torch.ones(1, 2)
    Mixed(0.5, {"weight": torch.full((1, 2), 3.0)}).gradient(model)
    assert torch.equal(original.grad, torch.full((1, 2), 2.0))


@pytest.mark.parametrize(
    ("beta", "first", "told"), [(0.1, "zero", [True, True]), (0.1, "plain", [False, True]), (1.0, "zero", [False, False])]
)
def test_when_a_direction_is_told(beta: float, first: str, told: list[bool]) -> None:
    assert [Mixture(beta, first).told(number) for number in (1, 2)] == told


def test_local_momentum_is_refused() -> None:
    without_momentum(parse({"method": "fedavg", "momentum": 0.0}))
    with pytest.raises(SettingError, match=r"momentum = 0.5 cannot be used"):
        without_momentum(parse({"method": "fedavg", "momentum": 0.5}))
