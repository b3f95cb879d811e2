"""KURE, APQN, QAT and MQAT: their formulas against closed forms, their limits against FedAvg, their gradients."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from math import sqrt

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import chisquare
from torch import Tensor, nn
from torch.func import functional_call

from fedwarm.core.arrays import WeightedMean, from_module, load_module
from fedwarm.core.seeds import generator
from fedwarm.models.cnn import cnn
from fedwarm.quantize.hooks import (
    Apqn,
    ClipGradient,
    Kure,
    Mqat,
    Qat,
    QuantizationRobust,
    kurtoses,
    kurtosis,
    unit_noise,
    validated,
    widths_of,
)
from fedwarm.quantize.ranges import weight_grid
from fedwarm.quantize.surgery import Noisy, Rounded, layers, master
from fedwarm.settings.fields import SettingError
from fedwarm.training.loop import Batch, Hook, Plan, fit

PLAN = Plan(epochs=2, batch_size=8, learning_rate=0.05, momentum=0.9)
Made = Callable[[torch.Generator], list[Hook]]


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


# Limits


def federated(hooks: Made, rounds: int = 3) -> dict[str, np.ndarray]:  # type: ignore[type-arg]
    """The global model after rounds of two clients, each with hooks of its own."""
    model = small()
    for number in range(rounds):
        mean = WeightedMean()
        for client in range(2):
            local = copy.deepcopy(model)
            fit(local, *data(21 + client, client), PLAN, generator(0, number, client), hooks(generator(1, number, client)))
            mean.add(from_module(local), 21 + client)
        load_module(model, mean.result())
    return from_module(model)


IDLE: dict[str, Made] = {
    "kure without weight": lambda g: [Kure(settings(kure_weight=0.0))],
    "apqn without scale": lambda g: [Apqn(settings(noise_scale=0.0), g)],
    "apqn at 32 bits": lambda g: [Apqn(settings(train_bits="32"), g)],
    "apqn fixed at 32 bits": lambda g: [Apqn(settings(apqn_width="fixed", bits=32), g)],
    "qat at 32 bits": lambda g: [Qat(settings(bits=32), g)],
    "qat learned at 32 bits": lambda g: [Qat(settings(bits=32, range="learned", quantize_activations=True), g)],
    "mqat from 32 alone": lambda g: [Mqat(settings(train_bits="32", quantize_activations=True), g)],
}
BUSY: dict[str, Made] = {
    "kure": lambda g: [Kure(settings())],
    "apqn": lambda g: [Apqn(settings(), g)],
    "apqn gaussian": lambda g: [Apqn(settings(noise="gaussian", apqn_width="fixed"), g)],
    "qat": lambda g: [Qat(settings(), g)],
    "qat learned": lambda g: [Qat(settings(range="learned", quantize_activations=True), g)],
    "mqat": lambda g: [Mqat(settings(), g)],
    "mqat round": lambda g: [Mqat(settings(granularity="round", quantize_activations=True, per_channel=True), g)],
}


@pytest.fixture(scope="module")
def fedavg() -> dict[str, np.ndarray]:  # type: ignore[type-arg]
    return federated(lambda g: [])


@pytest.mark.parametrize("made", IDLE.values(), ids=IDLE.keys())
def test_without_strength_it_is_fedavg_bit_for_bit(made: Made, fedavg: dict[str, np.ndarray]) -> None:  # type: ignore[type-arg]
    found = federated(made)
    assert list(found) == list(fedavg) and all(np.array_equal(found[name], fedavg[name]) for name in fedavg)


@pytest.mark.parametrize("made", BUSY.values(), ids=BUSY.keys())
def test_with_strength_it_is_not_and_sends_what_fedavg_sends(made: Made, fedavg: dict[str, np.ndarray]) -> None:  # type: ignore[type-arg]
    found = federated(made, rounds=1)
    assert {n: (a.shape, a.dtype) for n, a in found.items()} == {n: (a.shape, a.dtype) for n, a in fedavg.items()}
    assert list(found) == list(fedavg) and all(np.isfinite(a).all() for a in found.values())
    plain, again = federated(lambda g: [], rounds=1), federated(made, rounds=1)
    assert any(not np.array_equal(found[n], plain[n]) for n in found)
    assert all(np.array_equal(found[n], again[n]) for n in found)


@pytest.mark.parametrize("made", BUSY.values(), ids=BUSY.keys())
def test_one_forward_and_one_backward_a_step_and_no_global_draw(made: Made) -> None:
    model, forwards, backwards = small(), [], []

    def count(module: nn.Module, args: object, out: Tensor) -> None:
        forwards.append(1)
        out.register_hook(lambda gradient: backwards.append(1))

    model.register_forward_hook(count)
    before = torch.get_rng_state()
    done = fit(model, *data(), PLAN, generator(0), made(generator(1)))
    assert len(forwards) == len(backwards) == done.steps == 6
    assert torch.equal(torch.get_rng_state(), before)


# Kurtosis


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


# Noise


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


# Widths


def drawn(hook: Mqat | Apqn, steps: int) -> list[int]:
    model, found = small(), []
    hook.prepare(model)
    for _ in range(steps):
        found.append(hook.width.bits)
        hook.gradient(model)
    hook.finish(model)
    return found


def test_widths_are_drawn_evenly() -> None:
    for seed in range(2):
        found = drawn(Mqat(settings(), generator(seed)), 10_000)
        assert chisquare([found.count(b) for b in (2, 4, 6, 8)]).pvalue > 0.001
        assert found[:50] == drawn(Mqat(settings(), generator(seed)), 50)
        assert set(found) == {2, 4, 6, 8}
    apqn = drawn(Apqn(settings(train_bits="3,5"), generator(0)), 200)
    assert set(apqn) == {3, 5} and 60 < apqn.count(3) < 140


def test_a_width_a_round() -> None:
    rounds = [drawn(Mqat(settings(granularity="round"), generator(0, number)), 5) for number in range(40)]
    assert all(len(set(found)) == 1 for found in rounds) and {found[0] for found in rounds} == {2, 4, 6, 8}


def test_a_step_is_taken_at_the_quantized_weights() -> None:
    """One batch of QAT by hand: the gradient at Q(w), zero where w is out of range, applied to w."""
    images, labels = data(8)
    ours = small()
    with torch.no_grad():
        for layer in layers(ours).values():
            layer.get_parameter("weight").copy_(layer.get_parameter("weight").pow(3) * 100)
    by_hand = copy.deepcopy(ours)
    fit(ours, images, labels, Plan(1, 8, 0.5), generator(0), [Qat(settings(bits=3), generator(1))])
    x = (images.float() - 127.5) / 127.5
    handed, inside = {}, {}
    for name, p in by_hand.named_parameters():
        grid = weight_grid(p, 3, settings().scheme)
        handed[name] = (grid.nearest(p) if name.endswith("weight") else p).detach().requires_grad_()
        inside[name] = ((p / grid.step).abs() <= float(grid.high) + 0.5) | torch.tensor(not name.endswith("weight"))
    order = torch.randperm(8, generator=generator(0))
    F.cross_entropy(functional_call(by_hand, handed, (x[order],)), labels[order]).backward()
    assert any(not bool(i.all()) for i in inside.values())
    for (name, p), moved in zip(by_hand.named_parameters(), ours.parameters(), strict=True):
        gradient = handed[name].grad
        assert gradient is not None
        torch.testing.assert_close(moved, p - 0.5 * gradient * inside[name], rtol=1e-5, atol=1e-7)


def test_which_layers_are_trained_through_quantizers() -> None:
    model = small()
    hook = Mqat(settings(skip_first_last=True, quantize_activations=True), generator(0))
    hook.prepare(model)
    kinds = {name: type(part).__name__ for name, part in model.named_modules() if "Rounded" in type(part).__name__}
    hook.finish(model)
    assert kinds == {"3.parametrizations.weight.0": Rounded.__name__, "3.quantized_input": "RoundedInput"}
    noisy = Apqn(settings(quantize_activations=True), generator(0))
    noisy.prepare(model)
    assert sum(isinstance(part, Noisy) for part in model.modules()) == 3
    assert not any(part._forward_pre_hooks for part in model.modules())
    noisy.finish(model)


def test_learned_steps_are_told_and_taken_up_again() -> None:
    given, model = settings(range="learned", bits=3, quantize_activations=True), small()
    first = Qat(given, generator(0))
    fit(model, *data(), PLAN, generator(0), [first])
    weights, inputs = ({f"quantizer/{n}.{kind}.log_step" for n in names} for kind, names in (("weight", "037"), ("input", "37")))
    assert set(first.state) == weights | inputs and all(v.shape == (1,) for v in first.state.values())
    assert not any("quantizer" in name or "log_step" in name for name in model.state_dict())
    idle = Qat(given, generator(0), first.state)
    fit(model, *data(), Plan(1, 8, 1e-30), generator(0), [idle])
    assert all(torch.equal(idle.state[name], value) for name, value in first.state.items())
    on = Qat(given, generator(0), first.state)
    fit(model, *data(), PLAN, generator(0), [on])
    assert all(not torch.equal(on.state[name], value) for name, value in first.state.items())


def test_what_private_training_is_told() -> None:
    assert Kure(settings()).uses == Mqat(settings(), generator(0)).uses == Apqn(settings(), generator(0)).uses == "weights"
    assert Qat(settings(quantize_activations=True), generator(0)).uses == "batch"


def test_a_gradient_is_scaled_down_to_the_norm() -> None:
    model = nn.Linear(3, 2)
    for p in model.parameters():
        p.grad = torch.full_like(p, 5.0)
    ClipGradient(2.0).gradient(model)
    squares = [float(p.grad.square().sum()) for p in model.parameters() if p.grad is not None]
    assert sqrt(sum(squares)) == pytest.approx(2.0, rel=1e-4)


def test_settings_that_do_not_go_together() -> None:
    assert widths_of(" 2, 4,32", "key") == (2, 4, 32)
    for text in ("", "2,,4", "2;4", "four", "1,4", "4,17", "-4", "2.5"):
        with pytest.raises(SettingError, match="train-bits"):
            validated(settings(train_bits=text), "mqat")
    with pytest.raises(SettingError, match="quantization-robust.bits = 20"):
        validated(settings(bits=20), "qat")
    for objective in ("kure", "mqat", "apqn", "rq"):
        with pytest.raises(SettingError, match=f"'learned' is for qat, not for {objective}"):
            validated(settings(range="learned"), objective)
    assert validated(settings(range="learned"), "qat").scheme.rule == "mse"
