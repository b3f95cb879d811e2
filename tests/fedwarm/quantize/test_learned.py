"""Learned steps: the paper's gradients element by element, torch's own operator, and how far a step moves."""

from __future__ import annotations

from math import exp, log, sqrt

import pytest
import torch
from torch import Tensor, nn

from fedwarm.quantize.learned import Learned, LearnedInput, LearnedWeight, input_name, learned_quantize, weight_name
from fedwarm.quantize.ranges import weight_grid
from fedwarm.quantize.uniform import Scheme


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def by_step(v: float, low: int, high: int) -> float:
    """Equation 3 of the paper, for v = x / s."""
    if v <= low:
        return float(low)
    return float(high) if v >= high else round(v) - v


@pytest.mark.parametrize(("low", "high"), [(-1, 1), (-8, 7), (0, 15)])
def test_gradients_are_the_papers_element_by_element(low: int, high: int) -> None:
    step, x = 0.37, (3 * numbers(60).double()).requires_grad_()
    away = numbers(60, seed=1).double()
    log_step = torch.tensor([log(step)], dtype=torch.float64, requires_grad=True)
    q = learned_quantize(x, log_step, low, high, 60)
    q.backward(away)
    assert x.grad is not None and log_step.grad is not None
    total = 0.0
    for value, out, gradient, above in zip(x.tolist(), q.tolist(), x.grad.tolist(), away.tolist(), strict=True):
        v = value / step
        assert out == pytest.approx(min(max(round(v), low), high) * step, abs=1e-12)
        assert gradient == (above if low < v < high else 0.0)
        total += above * by_step(v, low, high)
    assert float(log_step.grad) == pytest.approx(total / sqrt(60 * high) / step, rel=1e-9)


def test_the_step_moves_as_torchs_operator_says() -> None:
    """Where both define the same: torch counts values just above the last level as inside, the paper does not."""
    step, low, high = 0.2, -7, 7
    x = 2 * numbers(4000)
    v = x / step
    x = x[((v.abs() < 7) | (v.abs() > 7.5)) & ((v - v.round()).abs() < 0.499)]
    scale, zero = torch.tensor([step], requires_grad=True), torch.zeros(1)
    factor, away = 1 / sqrt(len(x) * high), numbers(len(x), seed=1)
    theirs = torch._fake_quantize_learnable_per_tensor_affine(x, scale, zero, low, high, factor)
    theirs.backward(away)
    log_step = torch.tensor([log(step)], requires_grad=True)
    ours = learned_quantize(x, log_step, low, high, len(x))
    ours.backward(away)
    assert scale.grad is not None and log_step.grad is not None
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    assert float(log_step.grad) * step == pytest.approx(float(scale.grad), rel=1e-3)


def test_sgd_on_the_logarithm_moves_the_step_as_far() -> None:
    x, target, step, rate = numbers(300), numbers(300, seed=1), 0.3, 1e-5
    log_step = torch.tensor([log(step)], requires_grad=True)
    (learned_quantize(x, log_step, -3, 3, 300) - target).square().sum().backward()
    gradient = sum(2 * (float(q) - t) * by_step(v / step, -3, 3) for v, t, q in zip(
        x.tolist(), target.tolist(), (x / step).round().clamp(-3, 3) * step, strict=True))  # fmt: skip
    assert log_step.grad is not None
    moved = exp(log(step) - rate * float(log_step.grad)) - step
    assert moved == pytest.approx(-rate * gradient / sqrt(300 * 3), rel=0.01)


def test_a_step_finds_a_better_one_than_it_began_with() -> None:
    """From a step that is much too small, by SGD on the squared error alone."""
    weight, scheme = numbers(2000), Scheme()
    learner = LearnedWeight(weight, 2, scheme, torch.tensor([log(0.1)])).train()
    optimiser = torch.optim.SGD(learner.parameters(), lr=0.05)
    for _ in range(300):
        optimiser.zero_grad()
        (learner(weight) - weight).square().mean().mul(100).backward()
        optimiser.step()
    assert float(learner.log_step.exp()) == pytest.approx(float(weight_grid(weight, 2, scheme).step), rel=0.1)


@pytest.mark.parametrize("kind", ["weight", "input"])
def test_a_tiny_step_under_a_steep_loss_stays_finite(kind: str) -> None:
    """One step of SGD along the whole gradient, 300 times that of any sound training, would carry exp beyond float32."""
    x, start = numbers(2000), torch.tensor([log(1e-6)])
    learner = LearnedWeight(x, 4, Scheme(), start) if kind == "weight" else LearnedInput(4, x.device, start)
    learner.train()
    optimiser = torch.optim.SGD(learner.parameters(), lr=0.1, momentum=0.9)
    for _ in range(400):
        optimiser.zero_grad()
        (learner(x) - x).square().sum().backward()
        optimiser.step()
        assert torch.isfinite(learner(x)).all()
    assert 0.05 < float(learner.log_step.exp()) < 2


@pytest.mark.parametrize("per_channel", [False, True])
def test_weights_begin_at_the_schemes_range_or_where_they_are_told(per_channel: bool) -> None:
    weight, scheme = numbers(4, 3, 2, 2), Scheme(per_channel=per_channel)
    learner = LearnedWeight(weight, 4, scheme).train()
    grid = weight_grid(weight, 4, scheme)
    torch.testing.assert_close(learner(weight), grid.nearest(weight))
    assert learner.log_step.shape == ((4, 1, 1, 1) if per_channel else (1,))
    told = LearnedWeight(weight, 4, scheme, learner.log_step + 1)
    torch.testing.assert_close(told.log_step.exp(), grid.step.reshape(told.log_step.shape) * exp(1))


def test_inputs_begin_as_the_paper_says_and_see_their_sign() -> None:
    x = numbers(8, 5)
    learner = LearnedInput(4, torch.device("cpu")).train()
    learner(x)
    assert learner.bounds == (-8, 7)
    assert float(learner.log_step.exp()) == pytest.approx(2 * float(x.abs().mean()) / sqrt(7), rel=1e-6)
    behind = LearnedInput(4, torch.device("cpu")).train()
    behind(x.relu())
    assert behind.bounds == (0, 15)
    with pytest.raises(RuntimeError, match="before any input"):
        _ = LearnedInput(4, torch.device("cpu")).log_step
    assert bool(torch.isfinite(LearnedInput(4, torch.device("cpu")).train()(torch.zeros(2, 3))).all())


def test_in_evaluation_mode_nothing_is_done() -> None:
    weight = numbers(3, 4)
    assert LearnedWeight(weight, 2, Scheme()).eval()(weight) is weight
    assert LearnedInput(2, torch.device("cpu")).eval()(weight) is weight


def test_weight_decay_pulls_to_where_the_round_began() -> None:
    learner = LearnedWeight(numbers(50), 4, Scheme()).train()
    began = learner.log_step.clone()
    optimiser = torch.optim.SGD(learner.parameters(), lr=0.1, weight_decay=0.5)
    (learner(numbers(50)) * 0).sum().backward()
    optimiser.step()
    assert torch.equal(learner.log_step, began)


def test_names_and_grids_of_learned_steps() -> None:
    assert weight_name("3") == "quantizer/3.weight.log_step" and weight_name("") == "quantizer/weight.log_step"
    assert input_name("layer1.0.conv1") == "quantizer/layer1.0.conv1.input.log_step"
    learned = Learned(3, {weight_name("3"): torch.tensor([log(0.5)]), input_name("3"): torch.tensor([log(0.25)])})
    grid = learned.weight("3", Scheme())
    assert grid is not None
    torch.testing.assert_close(grid.nearest(torch.tensor([0.6, 9.0, -9.0])), torch.tensor([0.5, 1.5, -1.5]))
    unsigned, signed = learned.input("3", signed=False), learned.input("3", signed=True)
    assert unsigned is not None and signed is not None
    assert (float(unsigned.low), float(unsigned.high), float(signed.low), float(signed.high)) == (0, 7, -4, 3)
    assert learned.weight("4", Scheme()) is None and isinstance(LearnedWeight(numbers(2, 2), 2, Scheme()), nn.Module)
