"""The one training loop against a bare PyTorch loop, and its hooks."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedwarm.config import parse
from fedwarm.models import cnn
from fedwarm.seeds import generator
from fedwarm.training import Batch, Fit, Hook, Plan, fit

N, CLASSES, SIZE = 21, 3, 8
PLAN = Plan(epochs=3, batch_size=8, learning_rate=0.05, momentum=0.9, weight_decay=1e-3)


def data() -> tuple[Tensor, Tensor]:
    draws = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (N, 3, SIZE, SIZE), generator=draws).to(torch.uint8)
    return images, torch.randint(0, CLASSES, (N,), generator=draws)


def bare_loop(model: nn.Module, images: Tensor, labels: Tensor, plan: Plan, draws: torch.Generator) -> float:
    optimiser = torch.optim.SGD(model.parameters(), plan.learning_rate, plan.momentum, weight_decay=plan.weight_decay)
    model.train()
    losses = [0.0]
    for _ in range(plan.epochs):
        order, losses = torch.randperm(len(labels), generator=draws), []
        for start in range(0, len(labels), plan.batch_size):
            rows = order[start : start + plan.batch_size]
            optimiser.zero_grad()
            loss = F.cross_entropy(model((images[rows].float() - 127.5) / 127.5), labels[rows])
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
    return sum(losses) / len(losses)


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


def test_fit_is_the_bare_loop_bit_for_bit() -> None:
    images, labels = data()
    ours = cnn(CLASSES, SIZE)
    bare, start = copy.deepcopy(ours), copy.deepcopy(ours)
    done = fit(ours, images, labels, PLAN, generator(0, "x"))
    mean = bare_loop(bare, images, labels, PLAN, generator(0, "x"))
    assert same(ours, bare) and not same(ours, start)
    assert (done.steps, done.examples) == (3 * 3, N)
    assert done.loss == pytest.approx(mean, rel=1e-6)


def test_momentum_is_the_textbooks() -> None:
    """v <- m v + g + d w; w <- w - r v, by hand on one batch."""
    images, labels = data()
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE * SIZE, CLASSES)).double()
    plan = Plan(epochs=4, batch_size=N, learning_rate=0.01, momentum=0.5, weight_decay=0.1)
    w, b = (p.detach().clone() for p in model.parameters())
    x, wanted = ((images.double() - 127.5) / 127.5).flatten(1), F.one_hot(labels, CLASSES).double()
    fit(model.float(), images, labels, plan, generator(0))
    vw, vb = torch.zeros_like(w), torch.zeros_like(b)
    for _ in range(4):
        error = (torch.softmax(x @ w.T + b, 1) - wanted) / N
        vw, vb = 0.5 * vw + error.T @ x + 0.1 * w, 0.5 * vb + error.sum(0) + 0.1 * b
        w, b = w - 0.01 * vw, b - 0.01 * vb
    for ours, by_hand in zip(model.parameters(), (w, b), strict=True):
        torch.testing.assert_close(ours.detach().double(), by_hand, rtol=1e-4, atol=1e-5)


def test_the_generator_draws_the_order_and_nothing_else() -> None:
    images, labels = data()
    draws, reference, before = generator(1), generator(1), torch.get_rng_state()
    fit(cnn(CLASSES, SIZE), images, labels, PLAN, draws, [Hook()])
    after_model = torch.get_rng_state()
    for _ in range(PLAN.epochs):
        torch.randperm(N, generator=reference)
    assert torch.equal(draws.get_state(), reference.get_state())
    torch.set_rng_state(before)
    cnn(CLASSES, SIZE)
    assert torch.equal(torch.get_rng_state(), after_model)


class Recorder(Hook):
    """Writes down when it is called and what it sees."""

    def __init__(self, name: str, calls: list[str]) -> None:
        self.name, self.calls, self.rows = name, calls, list[list[int]]()

    def prepare(self, model: nn.Module) -> None:
        self.calls.append(f"{self.name} prepare")

    def epoch(self, model: nn.Module, number: int) -> None:
        self.calls.append(f"{self.name} epoch {number}")
        self.rows.append([])

    def loss(self, batch: Batch, loss: Tensor) -> Tensor:
        images, labels = data()
        assert torch.equal(batch.inputs, (images[batch.rows].float() - 127.5) / 127.5)
        assert torch.equal(batch.labels, labels[batch.rows])
        assert torch.equal(batch.model(batch.inputs), batch.logits)
        self.rows[-1] += batch.rows.tolist()
        self.calls.append(f"{self.name} loss")
        return loss

    def gradient(self, model: nn.Module) -> None:
        assert all(p.grad is not None for p in model.parameters())
        self.calls.append(f"{self.name} gradient")

    def finish(self, model: nn.Module) -> None:
        self.calls.append(f"{self.name} finish")


def test_hooks_are_called_in_the_order_of_the_list() -> None:
    calls: list[str] = []
    hooks = [Recorder("a", calls), Recorder("b", calls)]
    fit(cnn(CLASSES, SIZE), *data(), Plan(2, 16, 0.1), generator(0), hooks)
    step = ["a loss", "b loss", "a gradient", "b gradient"]
    epochs = [[f"a epoch {e}", f"b epoch {e}", *step, *step] for e in range(2)]
    assert calls == ["a prepare", "b prepare", *epochs[0], *epochs[1], "a finish", "b finish"]
    for hook in hooks:
        assert all(sorted(rows) == list(range(N)) for rows in hook.rows)
        assert hook.rows[0] != hook.rows[1]


def test_hooks_that_only_watch_change_nothing() -> None:
    ours = cnn(CLASSES, SIZE)
    plain = copy.deepcopy(ours)
    first = fit(ours, *data(), PLAN, generator(0), [Hook(), Recorder("a", [])])
    assert first == fit(plain, *data(), PLAN, generator(0))
    assert same(ours, plain)


class Scale(Hook):
    """A loss or a gradient times a number."""

    def __init__(self, loss: float = 1.0, gradient: float = 1.0) -> None:
        self.by_loss, self.by_gradient = loss, gradient

    def loss(self, batch: Batch, loss: Tensor) -> Tensor:
        return loss * self.by_loss

    def gradient(self, model: nn.Module) -> None:
        for p in model.parameters():
            assert p.grad is not None
            p.grad *= self.by_gradient


@pytest.mark.parametrize("hooks", [[Scale(loss=2.0)], [Scale(gradient=2.0)], [Scale(loss=4.0), Scale(gradient=0.5)]])
def test_terms_and_transforms_reach_the_step(hooks: list[Hook]) -> None:
    """Powers of two are exact: twice the gradient is twice the step size, bit for bit."""
    ours = cnn(CLASSES, SIZE)
    reference = copy.deepcopy(ours)
    fit(ours, *data(), Plan(2, 8, 0.0625), generator(0), hooks)
    fit(reference, *data(), Plan(2, 8, 0.125), generator(0))
    assert same(ours, reference)


def test_no_epochs_change_nothing() -> None:
    ours = cnn(CLASSES, SIZE)
    before = copy.deepcopy(ours)
    assert fit(ours, *data(), Plan(0, 8, 0.1), generator(0)) == Fit(0.0, 0, N)
    assert same(ours, before)


def test_the_plan_of_a_runs_settings() -> None:
    run = parse({"local-epochs": 3, "batch-size": 7, "learning-rate": 0.5, "momentum": 0.25, "weight-decay": 0.125}).run
    assert Plan.of(run) == Plan(3, 7, 0.5, 0.25, 0.125)
    assert Plan.of(run, 0) == Plan(0, 7, 0.5, 0.25, 0.125)
    assert Plan.of(run, 9).epochs == 9
