"""The one training loop against a bare PyTorch loop, and its hooks."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedwarm.catalogue import parse
from fedwarm.core.seeds import generator
from fedwarm.methods.fedprox import FedProx, ProximalTerm
from fedwarm.models.cnn import cnn
from fedwarm.privacy.mechanisms.dp_sgd.account import DpSgd, Steps
from fedwarm.privacy.mechanisms.dp_sgd.gradient import Mechanism, source_of
from fedwarm.settings.fields import SettingError
from fedwarm.training.loop import Batch, Fit, Hook, Plan, fit

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
    done = fit(ours, images, labels, PLAN, generator(0, "x"), private=None)
    mean = bare_loop(bare, images, labels, PLAN, generator(0, "x"))
    assert same(ours, bare) and not same(ours, start)
    assert (done.steps, done.examples, done.spent) == (3 * 3, N, None)
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
    own = run.own_settings
    assert Plan.of(run) == Plan(3, 7, 0.5, 0.25, 0.125, own_settings=own)
    assert Plan.of(run, 0) == Plan(0, 7, 0.5, 0.25, 0.125, own_settings=own)
    assert Plan.of(run, 9).epochs == 9


# Private at the level of examples

WHOLE = Plan(epochs=4, batch_size=N, learning_rate=0.05, momentum=0.9, weight_decay=1e-3)
OPEN = 1e6


def noisy(noise: float = 1.0, clip: float = 1.0, chunk: int = 8, key: int = 0) -> Mechanism:
    return Mechanism(clip, noise, chunk, source_of(DpSgd(entropy="seeded"), 0, key))


def close(one: nn.Module, other: nn.Module) -> None:
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


class Quiet(Hook):
    """Looks at nothing but the weights."""

    uses: ClassVar[str] = "weights"


class Pull(ProximalTerm):
    """The proximal term, declared as what it is."""

    uses: ClassVar[str] = "weights"


class Weighed(Hook):
    """A weight for each example."""

    uses: ClassVar[str] = "example"

    def loss(self, batch: Batch, loss: Tensor) -> Tensor:
        return (F.cross_entropy(batch.logits, batch.labels, reduction="none") * (1.0 + batch.rows % 3)).mean()


class Ridge(Hook):
    """A norm of the model's own weights, as part of each example's loss."""

    uses: ClassVar[str] = "example"

    def loss(self, batch: Batch, loss: Tensor) -> Tensor:
        return loss + 0.1 * torch.stack([p.square().sum() for p in batch.model.parameters()]).sum()


class Halved(Quiet):
    def gradient(self, model: nn.Module) -> None:
        for p in model.parameters():
            assert p.grad is not None
            p.grad *= 0.5


def test_private_steps_move_every_parameter_and_tell_the_account() -> None:
    model = cnn(CLASSES, SIZE)
    start = copy.deepcopy(model)
    done = fit(model, *data(), Plan(1, N, 0.1), generator(0), private=noisy())
    assert all(bool((a != b).any()) for a, b in zip(model.parameters(), start.parameters(), strict=True))
    assert done.spent == Steps(1.0, 1.0, 1) and math.isnan(done.loss)
    longer = fit(model, *data(), PLAN, generator(0), private=noisy(0.7))
    assert longer.spent == Steps(8 / N, 0.7, 9) and (longer.steps, longer.examples) == (9, N)
    assert fit(model, *data(), Plan(0, 8, 0.1), generator(0), private=noisy()).spent == Steps(8 / N, 1.0, 0)


@pytest.mark.parametrize("chunk", [1, 4, 64])
@pytest.mark.parametrize("hooks", [[], [Weighed()], [Ridge()], [Halved()], [Pull(FedProx(3.0))]], ids=["0", "1", "2", "3", "4"])
def test_without_clip_noise_and_sampling_it_is_plain_training(chunk: int, hooks: list[Hook]) -> None:
    plain = cnn(CLASSES, SIZE)
    private = copy.deepcopy(plain)
    fit(plain, *data(), WHOLE, generator(0), hooks)
    fit(private, *data(), WHOLE, generator(0), hooks, private=noisy(0.0, OPEN, chunk))
    close(private, plain)


def test_a_seeded_source_repeats_and_nothing_else_is_drawn_from() -> None:
    first, again, other, system = (cnn(CLASSES, SIZE) for _ in range(4))
    for model in (again, other, system):
        model.load_state_dict(first.state_dict())
    draws, world = generator(3), torch.get_rng_state()
    fit(first, *data(), PLAN, draws, private=noisy())
    assert torch.equal(draws.get_state(), generator(3).get_state()) and torch.equal(world, torch.get_rng_state())
    fit(again, *data(), PLAN, generator(4), private=noisy())
    fit(other, *data(), PLAN, generator(3), private=noisy(key=1))
    fit(system, *data(), PLAN, generator(3), private=Mechanism(1.0, 1.0))
    assert same(first, again) and not same(first, other) and not same(first, system)


class Rows(Hook):
    """Counts who takes part; needs the examples one after another."""

    uses: ClassVar[str] = "example"

    def __init__(self) -> None:
        self.seen = torch.zeros(N)

    def loss(self, batch: Batch, loss: Tensor) -> Tensor:
        assert len(batch.rows) == len(batch.labels) == len(batch.logits) == 1
        self.seen[batch.rows] += 1
        return loss


def test_batches_are_poisson_samples_and_may_be_empty() -> None:
    """q = 1/21: a third of the steps have no example, and take noise alone."""
    hook, model, epochs = Rows(), cnn(CLASSES, SIZE), 40
    done = fit(model, *data(), Plan(epochs, 1, 1e-3), generator(0), [hook], private=noisy(0.5, chunk=1))
    assert done.steps == epochs * N
    assert (hook.seen - epochs).abs().max() < 5 * math.sqrt(epochs)
    assert abs(float(hook.seen.mean()) - epochs) < 5 * math.sqrt(epochs / N)
    assert all(bool(torch.isfinite(p).all()) for p in model.parameters())


def test_a_wild_example_moves_a_step_by_the_clip_at_most() -> None:
    """Another image and label in one place: 2 C r / N, where plain training would go a hundred times as far."""
    images, labels = data()
    start, plan, clip = cnn(CLASSES, SIZE), Plan(1, N, 0.5), 0.1
    with torch.no_grad():
        for p in start.parameters():
            p *= 5
    others, wrong = images.clone(), labels.clone()
    others[0], wrong[0] = 255 - others[0], (labels[0] + 1) % CLASSES

    def moved(private: Mechanism | None) -> float:
        one, other = copy.deepcopy(start), copy.deepcopy(start)
        fit(one, images, labels, plan, generator(0), private=private)
        fit(other, others, wrong, plan, generator(0), private=private)
        pairs = zip(one.parameters(), other.parameters(), strict=True)
        return math.sqrt(sum(float((a - b).detach().double().square().sum()) for a, b in pairs))

    limit = 2 * clip * plan.learning_rate / N
    assert 0.5 * limit < moved(noisy(0.0, clip)) <= 1.001 * limit < 0.01 * moved(None)


def test_a_term_of_the_weights_is_neither_clipped_nor_noised() -> None:
    """No example counts (clip 1e-9): what is left of a step is the pull back to where training began."""
    model = cnn(CLASSES, SIZE)
    pull = Pull(FedProx(2.0))
    pull.prepare(model)
    start = copy.deepcopy(model)
    with torch.no_grad():
        for p in model.parameters():
            p += 1.0
    pull.prepare = lambda model: None  # type: ignore[method-assign]
    fit(model, *data(), Plan(1, N, 0.25), generator(0), [pull], private=noisy(1.0, 1e-9))
    for a, b in zip(model.parameters(), start.parameters(), strict=True):
        torch.testing.assert_close(a - b, torch.full_like(a, 0.5), rtol=1e-4, atol=1e-5)


def test_a_term_of_the_weights_is_shown_no_example() -> None:
    class Curious(Quiet):
        def loss(self, batch: Batch, loss: Tensor) -> Tensor:
            shown.append([len(batch.inputs), len(batch.labels), len(batch.logits), len(batch.rows)])
            return loss

    shown: list[list[int]] = []
    fit(cnn(CLASSES, SIZE), *data(), Plan(1, 8, 0.1), generator(0), [Curious()], private=noisy())
    assert shown == [[0, 0, 0, 0]] * 3


def test_hooks_that_are_not_covered_are_refused_before_anything_happens() -> None:
    model, calls = cnn(CLASSES, SIZE), list[str]()
    start = copy.deepcopy(model)
    with pytest.raises(SettingError, match="dp-sgd does not cover Recorder"):
        fit(model, *data(), PLAN, generator(0), [Quiet(), Recorder("a", calls)], private=noisy())
    assert calls == [] and same(model, start)


def test_no_examples_and_batch_statistics_are_refused() -> None:
    images, labels = data()
    with pytest.raises(SettingError, match="at least one training example"):
        fit(cnn(CLASSES, SIZE), images[:0], labels[:0], PLAN, generator(0), private=noisy())
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(3 * SIZE * SIZE, CLASSES))
    with pytest.raises(SettingError, match="'0', which keeps statistics"):
        fit(model, images, labels, PLAN, generator(0), private=noisy())


def test_it_learns_through_the_noise() -> None:
    """Two brightnesses, 400 images, epsilon 3: nearly all are told apart."""
    draws = generator(0, "brightness")
    labels = torch.randint(2, (400,), generator=draws)
    images = (torch.randint(0, 100, (400, 3, SIZE, SIZE), generator=draws) + 100 * labels.view(-1, 1, 1, 1)).to(torch.uint8)
    model, plan = cnn(2, SIZE), Plan(4, 40, 0.1, 0.9)
    private = Mechanism.of(DpSgd(target_epsilon=3.0), [(0.1, 40)], source_of(DpSgd(entropy="seeded"), 0))
    fit(model, images, labels, plan, generator(0), private=private)
    right = (model((images.float() - 127.5) / 127.5).argmax(1) == labels).float().mean()
    assert right > 0.9


class Twice(Hook):
    """Takes every gradient again where the weights are, and keeps both and the rows."""

    def __init__(self) -> None:
        self.rows: list[list[int]] = []
        self.pairs: list[bool] = []

    def loss(self, batch: Batch, loss: Tensor) -> Tensor:
        self.rows.append(batch.rows.tolist())
        return 2 * loss

    def again(self, model: nn.Module, retake: Callable[[], Tensor]) -> None:
        first = [p.grad for p in model.parameters() if p.grad is not None]
        retake()
        self.pairs.append(
            all(torch.equal(a, p.grad) for a, p in zip(first, model.parameters(), strict=True) if p.grad is not None)
        )


def test_a_second_pass_is_over_the_same_rows_and_terms() -> None:
    """It neither moves the model nor draws anything: training is what it is without."""
    images, labels = data()
    ours, hook = cnn(CLASSES, SIZE), Twice()
    plain = copy.deepcopy(ours)
    fit(ours, images, labels, PLAN, generator(0, "x"), [hook])
    once = Twice()
    once.again = lambda model, retake: None  # type: ignore[method-assign]
    fit(plain, images, labels, PLAN, generator(0, "x"), [once])
    assert same(ours, plain) and all(hook.pairs) and len(hook.pairs) == 9
    assert hook.rows[::2] == hook.rows[1::2] == once.rows


def normed(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE**2, 4), nn.BatchNorm1d(4), nn.Linear(4, CLASSES))


def test_a_last_batch_of_one_goes_with_the_one_before_where_layers_need_two() -> None:
    images, labels = data()
    rates: list[float] = []

    class Seen(Hook):
        def loss(self, batch: Batch, loss: Tensor) -> Tensor:
            rates.append(len(batch.rows))
            return loss

    plan = replace(PLAN, batch_size=10, epochs=2)
    assert fit(normed(), images, labels, plan, generator(0, "x"), [Seen()]).steps == 4 and rates == [10, 11] * 2
    rates.clear()
    assert fit(cnn(CLASSES, SIZE), images, labels, plan, generator(0, "x"), [Seen()]).steps == 6 and rates == [10, 10, 1] * 2
    for part, size in ((slice(None), 1), (slice(1), 8)):
        with pytest.raises(
            SettingError, match=r"layer '2' of the classifier cannot be trained on a batch of one .*; raise batch-s"
        ):
            fit(normed(), images[part], labels[part], replace(PLAN, batch_size=size), generator(0, "x"))
