"""Clients that train together against each one alone: the same batches, steps and losses, and what cannot be stacked."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedwarm.catalogue import parse
from fedwarm.core import meeting
from fedwarm.core.seeds import generator
from fedwarm.methods.fedprox import FedProx, ProximalTerm
from fedwarm.models.cnn import Cnn, cnn
from fedwarm.quantize.hooks import ClipGradient
from fedwarm.training import cohort, loop
from fedwarm.training.loop import Batch, Fit, Hook, Plan

SIZES = (11, 4, 2, 8)  # full batches, part of one, and fewer images than one
SIDE, CLASSES, ROUNDS = 8, 3, 5
PLAN = Plan(epochs=2, batch_size=4, learning_rate=0.02, momentum=0.9, weight_decay=1e-3)
PLANS = {
    "sgd": PLAN,
    "adamw": replace(PLAN, optimiser="adamw", learning_rate=1e-3, weight_decay=0.01),
    "plain sgd": replace(PLAN, momentum=0.0, weight_decay=0.0),
}
Data = list[tuple[Tensor, Tensor]]


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def data(dtype: torch.dtype = torch.float32, sizes: Sequence[int] = SIZES) -> Data:
    draws = torch.Generator().manual_seed(0)
    images = [torch.rand(n, 3, SIDE, SIDE, generator=draws).to(dtype) * 2 - 1 for n in sizes]
    return [(x, torch.randint(0, CLASSES, (len(x),), generator=draws)) for x in images]


def small(dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    return cnn(CLASSES, SIDE, Cnn(channels=4)).to(dtype)


def trained(models: Sequence[nn.Module], held: Data, plan: Plan, number: int, size: int, mu: float = 0.0) -> list[Fit]:
    """A round's trainings: together, or with size 0 one after another."""

    def one(i: int) -> Fit:
        hooks = [ProximalTerm(FedProx(mu=mu))] if mu else []
        return cohort.fit(models[i], *held[i], plan, generator(0, "x", number, i), hooks)

    if not size:
        return [one(i) for i in range(len(models))]
    return meeting.together([lambda i=i: one(i) for i in range(len(models))], size)  # type: ignore[misc]


def rounds(size: int, plan: Plan = PLAN, dtype: torch.dtype = torch.float32, mu: float = 0.0, count: int = ROUNDS) -> Tensor:
    """All weights after rounds of FedAvg, as one vector, with step sizes that fall from round to round."""
    model, held = small(dtype), data(dtype)
    for number in range(count):
        models = [copy.deepcopy(model) for _ in held]
        trained(models, held, replace(plan, learning_rate=plan.learning_rate * 0.9**number), number, size, mu)
        parts = zip(*(m.parameters() for m in models), strict=True)
        total = sum(SIZES)
        with torch.no_grad():
            for p, each in zip(model.parameters(), parts, strict=True):
                p.copy_(sum(q * (n / total) for q, n in zip(each, SIZES, strict=True)))  # type: ignore[arg-type]
    return nn.utils.parameters_to_vector(model.parameters()).detach()


def apart(one: Tensor, other: Tensor) -> float:
    return float((one - other).detach().norm() / one.detach().norm())


@pytest.mark.parametrize("name", PLANS)
def test_five_rounds_together_are_five_rounds_one_after_another(name: str) -> None:
    """Within 1e-5 in single precision, and 1e-12 in double: rounding alone is between them."""
    assert apart(rounds(0, PLANS[name]), rounds(3, PLANS[name])) < 1e-5
    double = torch.float64
    assert apart(rounds(0, PLANS[name], double, count=2), rounds(3, PLANS[name], double, count=2)) < 1e-12


def test_a_term_of_the_weights_is_each_clients_own() -> None:
    """FedProx's start is stacked with the weights: with it the model is another than without, and the same as alone."""
    double = torch.float64
    alone, together = (rounds(size, dtype=double, mu=0.5, count=2) for size in (0, 4))
    assert apart(alone, together) < 1e-12
    assert apart(alone, rounds(4, dtype=double, count=2)) > 1e-4


def test_losses_steps_and_draws_are_those_of_each_alone() -> None:
    held, double = data(torch.float64), torch.float64
    models = [[small(double) for _ in held] for _ in range(2)]
    alone, together = (trained(each, held, PLAN, 1, size) for each, size in zip(models, (0, 4), strict=True))
    assert (
        [(f.steps, f.examples) for f in alone] == [(f.steps, f.examples) for f in together] == [(6, 11), (2, 4), (2, 2), (4, 8)]
    )
    assert [f.loss for f in together] == pytest.approx([f.loss for f in alone], abs=1e-12)
    draws = [generator(0, "x"), generator(0, "x")]
    cohort.fit(small(double), *held[0], PLAN, draws[0])
    meeting.together([lambda: cohort.fit(small(double), *held[0], PLAN, draws[1])], 2)
    assert torch.equal(draws[0].get_state(), draws[1].get_state())


def test_the_same_bits_twice_whoever_else_is_in_the_stack() -> None:
    """A client's weights hang on the stack's size alone: not on the others, and not on its place."""
    held = data()
    whole = [small() for _ in held]
    trained(whole, held, PLAN, 0, 4)
    again = [small() for _ in held]
    trained(again, held, PLAN, 0, 4)
    assert all(
        torch.equal(p, q) for a, b in zip(whole, again, strict=True) for p, q in zip(a.parameters(), b.parameters(), strict=True)
    )
    one = small()
    meeting.together([lambda: cohort.fit(one, *held[3], PLAN, generator(0, "x", 0, 3))], 4)
    assert all(torch.equal(p, q) for p, q in zip(one.parameters(), whole[3].parameters(), strict=True))


def test_more_clients_than_a_stack_holds_are_done_in_several(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    run = cohort.Stack.run

    def watched(self: cohort.Stack) -> list[Fit]:
        seen.append(len(self.wishes))
        assert all(t.shape[0] == self.size == 3 for t in self.trained.values())  # memory is the stack's, however few are in it
        return run(self)

    monkeypatch.setattr(cohort.Stack, "run", watched)
    held = data()
    trained([small() for _ in held], held, PLAN, 0, 3)
    assert seen == [3, 1]


def test_a_schedule_over_steps_is_each_clients_own() -> None:
    """Who takes other numbers of steps has other step sizes, and is in another stack."""
    config = parse({"schedule": "cosine", "schedule-over": "steps", "batch-size": 4, "learning-rate": 0.02, "local-epochs": 2})
    plan, held, double = Plan.of(config.run), data(torch.float64), torch.float64
    models = [[small(double) for _ in held] for _ in range(2)]
    for each, size in zip(models, (0, 4), strict=True):
        trained(each, held, plan, 0, size)
    vectors = [[nn.utils.parameters_to_vector(m.parameters()) for m in each] for each in models]
    assert max(apart(a, b) for a, b in zip(*vectors, strict=True)) < 1e-12


# What cannot be stacked


class Stateful(Hook):
    uses = "weights"
    stacked = ()

    def gradient(self, model: nn.Module) -> None:
        """Looks at every step."""


class Targeted(Hook):
    uses = "weights"
    stacked = ()

    def given(self, labels: Tensor) -> None:
        """Looks at a client's targets."""


class Examples(Hook):
    uses = "example"
    stacked = ()

    def loss(self, batch: Batch, loss: Tensor) -> Tensor:
        return loss + batch.logits.square().mean()


@pytest.mark.parametrize(
    "hook", [ClipGradient(1.0), Stateful(), Targeted(), Examples(), Hook()], ids=lambda hook: type(hook).__name__
)
def test_hooks_that_look_at_single_steps_or_examples_are_not_stacked(hook: Hook) -> None:
    assert cohort.obstacle(PLAN, [hook]) == f"{type(hook).__name__} takes one model at a time"
    assert not cohort.obstacle(PLAN, [ProximalTerm(FedProx())])


def test_tasks_and_optimisers_say_whether_they_can() -> None:
    assert "looks at examples together" in cohort.obstacle(replace(PLAN, task="contrast"))
    assert not cohort.obstacle(PLAN)


@pytest.mark.parametrize(
    ("layer", "why"),
    [(nn.Dropout(0.5), "draw"), (nn.BatchNorm2d(3), "BatchNorm2d"), (nn.GRU(2, 2), "GRU"), (nn.GroupNorm(1, 3), "")],
)
def test_layers_that_draw_or_have_statistics_of_a_batch_are_not_stacked(layer: nn.Module, why: str) -> None:
    found = cohort.model_obstacle(nn.Sequential(nn.Conv2d(3, 3, 1), layer))
    assert (why in found) == bool(found) == bool(why) or not why


def test_who_cannot_is_trained_alone_bit_for_bit() -> None:
    """Dropout, an operation that torch cannot stack, and hooks of single steps: as the one loop trains them."""

    class Sized(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = cnn(CLASSES, SIDE, Cnn(channels=4))

        def forward(self, x: Tensor) -> Tensor:
            found: Tensor = self.inner(x)
            return found * (1.0 if float(self.inner[0].weight.detach().sum()) > -1e9 else 2.0)  # type: ignore[index,union-attr,operator,arg-type]

    held = data()
    for make in (lambda: nn.Sequential(nn.Dropout(0.5), small()), Sized):
        torch.manual_seed(1)
        start = make()
        models = [[copy.deepcopy(start) for _ in held] for _ in range(2)]
        for each, size in zip(models, (0, 4), strict=True):
            trained(each, held, PLAN, 0, size)
        for a, b in zip(*models, strict=True):
            assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


def test_a_batch_far_larger_than_what_clients_hold_takes_little() -> None:
    """As where an epoch is to be one step: rows that nobody holds would fill memory."""
    plan, held = replace(PLAN, batch_size=10**9), data()
    together, alone = ([small() for _ in held] for _ in range(2))
    told, single = trained(together, held, plan, 1, 4), trained(alone, held, plan, 1, 0)
    assert [fit.steps for fit in told] == [fit.steps for fit in single] == [PLAN.epochs] * len(held)
    for one, other in zip(together, alone, strict=True):
        vectors = [nn.utils.parameters_to_vector(net.parameters()).detach() for net in (one, other)]
        assert apart(*vectors) < 1e-5


def test_outside_a_meeting_it_is_the_one_loop() -> None:
    held, models = data(), [small(), small()]
    cohort.fit(models[0], *held[0], PLAN, generator(0, "x"))
    loop.fit(models[1], *held[0], PLAN, generator(0, "x"))
    assert all(torch.equal(p, q) for p, q in zip(models[0].parameters(), models[1].parameters(), strict=True))


def test_a_stack_too_large_for_the_device_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: cohort.Stack) -> list[Fit]:
        raise torch.OutOfMemoryError("full")

    monkeypatch.setattr(cohort.Stack, "run", full)
    with pytest.raises(RuntimeError, match="4 clients at a time do not fit .* set cohort lower"):
        trained([small() for _ in SIZES], data(), PLAN, 0, 4)
