"""KURE, APQN, QAT and MQAT: their limits against FedAvg, the widths they draw, and what they put on which layers."""

from __future__ import annotations

import copy
from collections.abc import Callable

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
from fedwarm.objectives.apqn import Apqn
from fedwarm.objectives.kure import Kure
from fedwarm.objectives.mqat import Mqat
from fedwarm.objectives.qat import Qat
from fedwarm.quantize.ranges import weight_grid
from fedwarm.quantize.settings import QuantizationRobust
from fedwarm.quantize.surgery import Noisy, Rounded, layers
from fedwarm.training.loop import Hook, Plan, fit

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
