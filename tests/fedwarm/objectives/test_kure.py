"""KURE: kurtosis against closed forms, its gradient, and the penalty."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from fedwarm.core.seeds import generator
from fedwarm.models.cnn import cnn
from fedwarm.objectives.kure import Kure, kurtoses, kurtosis
from fedwarm.quantize.hooks import ClipGradient
from fedwarm.quantize.settings import QuantizationRobust
from fedwarm.quantize.surgery import layers
from fedwarm.training.loop import Batch, Hook, Plan, fit

PLAN = Plan(epochs=2, batch_size=8, learning_rate=0.05, momentum=0.9)


def settings(**given: object) -> QuantizationRobust:
    return QuantizationRobust(**given)  # type: ignore[arg-type]


def data(n: int = 21, seed: int = 0) -> tuple[Tensor, Tensor]:
    draws = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, 3, 8, 8), generator=draws).to(torch.uint8), torch.randint(0, 3, (n,), generator=draws)


def small() -> nn.Module:
    torch.manual_seed(0)
    return cnn(3, 8)


def normal(n: int) -> Tensor:
    return torch.randn(n, generator=torch.Generator().manual_seed(0))


def test_kurtosis_of_what_is_known() -> None:
    assert float(kurtosis(torch.tensor([-1.0, 1.0]))) == 1.0
    assert float(kurtosis(torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64))) == pytest.approx(1.5, abs=1e-15)
    for n in (2, 10, 255):
        even = torch.linspace(-1, 1, n, dtype=torch.float64)
        assert float(kurtosis(even)) == pytest.approx(3 - 1.2 * (n**2 + 1) / (n**2 - 1), abs=1e-12)
    assert float(kurtosis(torch.linspace(-1, 1, 255, dtype=torch.float64))) == pytest.approx(1.799963, abs=1e-6)
    assert float(kurtosis(normal(10**6))) == pytest.approx(3, abs=0.02)
    assert float(kurtosis(torch.rand(10**6, generator=torch.Generator().manual_seed(0)))) == pytest.approx(1.8, abs=0.01)


def test_kurtosis_knows_neither_scale_nor_place() -> None:
    x = normal(1000).double()
    for scale, shift in ((1e-3, 0.0), (50.0, 7.0), (-1.0, -2.0)):
        assert float(kurtosis(scale * x + shift)) == pytest.approx(float(kurtosis(x)), abs=1e-6)


def test_kurtosis_gradient() -> None:
    """(4/n) [(z^3 - m3) / m2^2 - m4 z / m2^3]."""
    x = normal(200).double().requires_grad_()
    (gradient,) = torch.autograd.grad(kurtosis(x), x)
    z = x.detach() - x.detach().mean()
    m2, m3, m4 = ((z**k).mean() for k in (2, 3, 4))
    torch.testing.assert_close(gradient, 4 / 200 * ((z**3 - m3) / m2**2 - m4 * z / m2**3), rtol=0, atol=1e-8)


def test_dead_and_tiny_tensors_are_harmless() -> None:
    dead = torch.full((100,), 0.3, requires_grad=True)
    (gradient,) = torch.autograd.grad(kurtosis(dead), dead)
    assert float(kurtosis(dead.detach())) == pytest.approx(0.0, abs=1e-3) and bool(torch.isfinite(gradient).all())
    model = nn.Sequential(nn.Linear(7, 9), nn.Linear(9, 8), nn.Linear(8, 8))
    assert list(kurtoses(model)) == ["1", "2"] and list(kurtoses(model, skip_first_last=True)) == ["1"]


def batch_of(model: nn.Module) -> Batch:
    x = torch.zeros(2, 3, 8, 8)
    return Batch(model, x, torch.tensor([0, 1]), x, torch.arange(2))


def test_the_penalty_is_the_mean_over_layers() -> None:
    model, rest = small(), torch.tensor(2.5)
    found = [float(kurtosis(layer.get_parameter("weight").detach())) for layer in layers(model).values()]
    value = Kure(settings(kure_weight=0.7, kure_target=2.0)).loss(batch_of(model), rest)
    assert value.item() == pytest.approx(2.5 + 0.7 * sum((k - 2) ** 2 for k in found) / 3, rel=1e-6)
    assert Kure(settings()).loss(batch_of(nn.Sequential(nn.ReLU())), rest) is rest


@pytest.mark.long
def test_kurtosis_really_falls() -> None:
    """From heavy tails, and further than without the penalty."""
    start = small()
    with torch.no_grad():
        for layer in layers(start).values():
            layer.get_parameter("weight").copy_(layer.get_parameter("weight").pow(5) * 1e4)
    hooks: Sequence[list[Hook]] = ([], [Kure(settings(kure_weight=0.1))])
    plain, pressed = (copy.deepcopy(start) for _ in range(2))
    plan = Plan(epochs=40, batch_size=8, learning_rate=0.01, momentum=0.9)
    for model, given in zip((plain, pressed), hooks, strict=True):
        fit(model, *data(), plan, generator(0), [*given, ClipGradient(1.0)])
    for name, value in kurtoses(pressed).items():
        assert value < kurtoses(plain)[name] and abs(value - 1.8) < abs(kurtoses(start)[name] - 1.8) / 2
