"""APQN: the law of its noise, and gradients against what theory says of a smoothed loss."""

from __future__ import annotations

from math import sqrt

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedwarm.core.seeds import generator
from fedwarm.models.cnn import cnn
from fedwarm.objectives.apqn import Apqn, unit_noise
from fedwarm.quantize.ranges import weight_grid
from fedwarm.quantize.settings import QuantizationRobust
from fedwarm.quantize.surgery import layers, master


def settings(**given: object) -> QuantizationRobust:
    return QuantizationRobust(**given)  # type: ignore[arg-type]


def small() -> nn.Module:
    torch.manual_seed(0)
    return cnn(3, 8)


def test_noise_is_uniform_and_strictly_inside_half_a_step() -> None:
    u = unit_noise(torch.Size([10**6]), "uniform", generator(0))
    assert abs(float(u.double().mean())) < 5 / sqrt(12 * 10**6)
    assert float(u.double().var()) == pytest.approx(1 / 12, rel=0.01)
    assert float(u.abs().max()) < 0.5
    for step in (1.0, 0.3, 1e-3, 0.123456):
        edge = torch.tensor(-0.5) * (1 - 2**-23)
        assert float((edge * step).abs()) < step / 2
    assert float(unit_noise(torch.Size([10**6]), "gaussian", generator(0)).double().var()) == pytest.approx(1 / 12, rel=0.01)


def noises(hook: Apqn, model: nn.Module, steps: int) -> list[Tensor]:
    """What is added to the first weight in each step, in units of a quantization step."""
    found = []
    hook.prepare(model)
    model.train()
    layer = layers(model)["0"]
    for _ in range(steps):
        weight = master(layer).detach()
        step = weight_grid(weight, hook.width.bits, settings().scheme).step
        found.append(((layer.weight.detach() - weight) / step).clone())  # type: ignore[operator, union-attr]
        hook.gradient(model)
    hook.finish(model)
    return found


def test_noise_is_fresh_in_each_step_and_the_same_on_replay() -> None:
    given = settings(apqn_width="fixed", bits=4)
    one, other = (noises(Apqn(given, generator(5)), small(), 4) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert all(not torch.equal(one[i], one[j]) for i in range(4) for j in range(i))
    assert all(0.3 < float(u.abs().max()) <= 0.5 + 1e-5 for u in one)
    assert not torch.equal(one[0], noises(Apqn(given, generator(6)), small(), 1)[0])
    doubled = noises(Apqn(settings(apqn_width="fixed", bits=4, noise_scale=2.0), generator(5)), small(), 1)[0]
    torch.testing.assert_close(doubled, 2 * one[0], rtol=1e-3, atol=1e-4)


def test_a_quadratic_is_smoothed_by_what_theory_says() -> None:
    """E F(w + Delta u) - F(w) = L d Delta^2 / 24 for F = L/2 ||w||^2: .375 at L = 2, d = 50, Delta = .3."""
    u = unit_noise(torch.Size([40_000, 50]), "uniform", generator(0)).double()
    assert float((0.3 * u).square().sum(1).mean()) == pytest.approx(0.375, abs=0.002)


def test_the_gradient_is_the_plain_one_at_the_noisy_weights() -> None:
    model, at = small().double(), small().double()
    x, labels = torch.randn(4, 3, 8, 8, dtype=torch.float64), torch.tensor([0, 1, 2, 0])
    hook = Apqn(settings(apqn_width="fixed", bits=3), generator(0))
    hook.prepare(model)
    model.train()
    with torch.no_grad():
        for name, layer in layers(model).items():
            at.get_parameter(f"{name}.weight").copy_(layer.weight)  # type: ignore[arg-type]
    F.cross_entropy(model(x), labels).backward()
    F.cross_entropy(at(x), labels).backward()
    hook.finish(model)
    for ours, theirs in zip(model.parameters(), at.parameters(), strict=True):
        assert ours.grad is not None and theirs.grad is not None
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=0, atol=1e-7)


def test_the_gradient_is_the_smoothed_losss_on_average() -> None:
    """F = sum w^4 / 4 smoothed by uniform noise of width Delta has the gradient w^3 + w Delta^2 / 4."""
    model, draws = nn.Sequential(nn.Linear(10, 20, bias=False)), 2000
    hook = Apqn(settings(apqn_width="fixed", bits=2), generator(0))
    hook.prepare(model)
    model.train()
    weight = master(model[0])
    step = weight_grid(weight, 2, settings().scheme).step
    gradients = []
    for _ in range(draws):
        noisy = model[0].weight
        assert isinstance(noisy, Tensor)
        gradients.append(torch.autograd.grad(noisy.pow(4).sum() / 4, weight)[0])
        hook.gradient(model)
    hook.finish(model)
    found, w = torch.stack(gradients).double(), weight.detach().double()
    error = (found.mean(0) - (w**3 + w * step.double() ** 2 / 4)) / (found.std(0) / sqrt(draws))
    assert float(error.abs().max()) < 5 and float(error.square().mean()) == pytest.approx(1.0, abs=0.4)
