"""FedProx: the proximal term's gradient, and the limits in which it is known."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedwarm.core.seeds import generator
from fedwarm.methods.fedprox import FedProx, ProximalTerm
from fedwarm.models.cnn import cnn
from fedwarm.training.loop import Batch, Plan, fit

MU = 0.7


def data() -> tuple[Tensor, Tensor]:
    draws = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (20, 3, 8, 8), generator=draws).to(torch.uint8), torch.randint(0, 3, (20,), generator=draws)


def batch_of(model: nn.Module) -> Batch:
    x = torch.zeros(2, 3, 8, 8)
    return Batch(model, x, torch.tensor([0, 1]), model(x), torch.arange(2))


def moved(model: nn.Module) -> list[Tensor]:
    """Shift every weight by noise; what was added."""
    draws = torch.Generator().manual_seed(1)
    steps = [torch.randn(p.shape, generator=draws) for p in model.parameters()]
    with torch.no_grad():
        for p, step in zip(model.parameters(), steps, strict=True):
            p.add_(step)
    return steps


def test_value_and_gradient_of_the_term() -> None:
    """mu/2 ||w - w0||^2 has the gradient mu (w - w0)."""
    model, hook = cnn(3, 8), ProximalTerm(FedProx(MU))
    start = [p.detach().clone() for p in model.parameters()]
    hook.prepare(model)
    moved(model)
    value = hook.loss(batch_of(model), torch.tensor(2.5))
    away = [p.detach() - w for p, w in zip(model.parameters(), start, strict=True)]
    assert value.item() == pytest.approx(2.5 + MU / 2 * sum(float(d.double().square().sum()) for d in away), rel=1e-6)
    gradients = torch.autograd.grad(value, list(model.parameters()))
    for gradient, d in zip(gradients, away, strict=True):
        torch.testing.assert_close(gradient, MU * d, rtol=1e-6, atol=1e-6)


def test_at_the_start_the_term_is_nothing() -> None:
    model, hook = cnn(3, 8), ProximalTerm(FedProx(MU))
    hook.prepare(model)
    value = hook.loss(batch_of(model), torch.tensor(2.5))
    assert value.item() == 2.5
    assert all(not g.any() for g in torch.autograd.grad(value, list(model.parameters())))


def test_a_fit_is_the_loop_written_by_hand() -> None:
    images, labels = data()
    ours = cnn(3, 8)
    by_hand, start = copy.deepcopy(ours), [p.detach().clone() for p in ours.parameters()]
    fit(ours, images, labels, Plan(3, 8, 0.05), generator(0), [ProximalTerm(FedProx(MU))])
    draws = generator(0)
    for _ in range(3):
        for rows in torch.randperm(20, generator=draws).split(8):
            loss = F.cross_entropy(by_hand(images[rows].float() / 127.5 - 1), labels[rows])
            gradients = torch.autograd.grad(loss, list(by_hand.parameters()))
            with torch.no_grad():
                for p, g, w in zip(by_hand.parameters(), gradients, start, strict=True):
                    p.sub_(0.05 * (g + MU * (p - w)))
    for p, q in zip(ours.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-6)


def test_without_weight_it_is_plain_training_bit_for_bit() -> None:
    ours = cnn(3, 8)
    plain = copy.deepcopy(ours)
    done = fit(ours, *data(), Plan(3, 8, 0.05, 0.9), generator(0), [ProximalTerm(FedProx(0.0))])
    assert done == fit(plain, *data(), Plan(3, 8, 0.05, 0.9), generator(0))
    assert all(torch.equal(p, q) for p, q in zip(ours.parameters(), plain.parameters(), strict=True))


def test_more_weight_stays_nearer_to_the_start() -> None:
    distances = []
    for mu in (0.0, 0.1, 1.0, 5.0):
        torch.manual_seed(0)
        model = cnn(3, 8)
        start = [p.detach().clone() for p in model.parameters()]
        fit(model, *data(), Plan(5, 8, 0.05), generator(0), [ProximalTerm(FedProx(mu))])
        away = [(p.detach() - w).square().sum() for p, w in zip(model.parameters(), start, strict=True)]
        distances.append(float(torch.stack(away).sum()))
    assert distances == sorted(distances, reverse=True) and distances[-1] < distances[0] / 4


def test_each_round_begins_anew() -> None:
    """The reference is where this fit began, not where the first one did."""
    model, hook = cnn(3, 8), ProximalTerm(FedProx(MU))
    hook.prepare(model)
    moved(model)
    hook.prepare(model)
    assert hook.loss(batch_of(model), torch.tensor(0.0)).item() == 0.0


def test_settings() -> None:
    assert FedProx.prefix == "fedprox" and FedProx().mu > 0
