"""The relaxed quantizer: its law against closed values and slow sums, its samples by chi-square, its gradients by differences."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chi2_contingency, chisquare, logistic, norm
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from fedwarm.quantize.relaxed import BLOCK, Bounds, Quantizer, Rule, bounds, first_alpha, masses, relax, rounded, sample

DOUBLE = torch.float64


def rule(bits: int = 4, variant: str = "rq_st", **changes: Any) -> Rule:
    usual = {"noise": "logistic", "temperature": 1.0, "local_grid": True, "delta_w": 3.0, "floor": 1e-3}
    return Rule(bits, variant, **{**usual, "start": "range", "start_sigma": 1 / 3, **changes})


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def numbers(*values: float) -> Tensor:
    return torch.tensor(values, dtype=DOUBLE)


def drawn(x: float, count: int, how: Rule, sigma: float = 1 / 3, seed: int = 0, signed: bool = True) -> np.ndarray[Any, Any]:
    """How often each grid point came out of `count` samples of x, alpha = 1."""
    grid = bounds(how.bits, signed)
    many = sample(torch.full((count,), x, dtype=DOUBLE), numbers(1.0)[0], numbers(sigma)[0], how, grid, draws(seed))
    return np.bincount((many - grid[0]).long().numpy(), minlength=grid[1] - grid[0] + 1)


# The law


@pytest.mark.parametrize("noise", ["logistic", "gaussian", "uniform"])
@pytest.mark.parametrize("bits", range(1, 9))
def test_masses_sum_to_one_everywhere(bits: int, noise: str) -> None:
    for signed in (True, False):
        low, high = grid = bounds(bits, signed)
        x = numbers(low - 10, low - 0.5, low, low + 0.3, (low + high) / 2, high - 0.5, high, high + 10) * 0.7
        for ratio in (1e-3, 1e-2, 1 / 3, 1.0, 30.0, 1e3):
            for half in (None, 1, 2):
                found = masses(x, 0.7, 0.7 * ratio, grid, noise, half)
                assert found.shape == (8, 2**bits) and (found >= 0).all()
                assert (found.sum(-1) - 1).abs().max() < 1e-12


def test_closed_values() -> None:
    own = masses(numbers(3.0), 1.0, 1 / 3, (-128, 127))[0]
    assert own[131].item() == pytest.approx(0.635149, abs=1e-6)
    torch.testing.assert_close(own[[130, 132]], numbers(0.171439, 0.171439), rtol=0, atol=1e-6)
    found = masses(numbers(0.3), 1.0, 1 / 3, (-2, 1))[0]
    torch.testing.assert_close(found, numbers(0.004389, 0.080845, 0.577986, 0.336780), rtol=0, atol=1e-6)
    assert (found * torch.arange(-2, 2)).sum().item() == pytest.approx(0.247157, abs=1e-6)


@pytest.mark.parametrize(("noise", "law"), [("logistic", logistic), ("gaussian", norm)])
def test_it_is_the_difference_of_distribution_functions(noise: str, law: Any) -> None:
    """Where these differences do not cancel: everywhere within a few sigma."""
    alpha, points = 0.4, np.arange(-4, 4)
    for sigma in (0.1, 0.2, 0.5):
        x = np.linspace(-2, 1.6, 37)
        edge = (points + 0.5) * alpha - x[:, None]
        mass = law.cdf(edge, scale=sigma) - law.cdf(edge - alpha, scale=sigma)
        wanted = mass / mass.sum(1, keepdims=True)
        np.testing.assert_allclose(masses(torch.tensor(x), alpha, sigma, (-4, 3), noise).numpy(), wanted, atol=1e-9)


def test_limits_of_sigma() -> None:
    sharp = masses(numbers(0.3), 1.0, 0.01, (-8, 7))[0]
    assert 1 - sharp[8].item() == pytest.approx(2.1e-9, rel=0.02)
    for noise in ("logistic", "gaussian"):
        assert masses(numbers(17.0), 1.0, 0.01, (-8, 7), noise)[0, -1] > 0.99
        assert masses(numbers(-18.0), 1.0, 0.01, (-8, 7), noise)[0, 0] > 0.99
        flat = masses(numbers(-20.0, 0.3, 20.0), 1.0, 1e3, (-8, 7), noise)
        assert ((flat - 1 / 16).abs().sum(1) / 2).max() < 0.01


def test_far_off_the_grid_the_law_is_geometric() -> None:
    found = masses(numbers(100.0), 1.0, 0.5, (-8, 7))[0].flip(0)
    torch.testing.assert_close(found[1:] / found[:-1], torch.full((15,), np.exp(-2.0), dtype=DOUBLE), rtol=1e-9, atol=0)


@pytest.mark.parametrize(("sigma", "whole", "near"), [(0.1, 0.118874, None), (1 / 3, 0.294465, 0.2571), (1.0, 0.3, 0.2347)])
def test_the_bias_is_real(sigma: float, whole: float, near: float | None) -> None:
    points = torch.arange(-128, 128)
    assert (masses(numbers(0.3), 1.0, sigma, (-128, 127)) * points).sum().item() == pytest.approx(whole, abs=1e-4)
    if near is not None:
        found = masses(numbers(0.3), 1.0, sigma, (-128, 127), half=rule(8).half_window(sigma))
        assert (found * points).sum().item() == pytest.approx(near, abs=1e-4)


@pytest.mark.parametrize(("sigma", "distance", "size"), [(1 / 3, 0.0220, 3), (1.0, 0.0586, 7)])
def test_what_the_local_grid_leaves_out(sigma: float, distance: float, size: int) -> None:
    whole = masses(numbers(0.0), 1.0, sigma, (-128, 127))[0]
    near = masses(numbers(0.0), 1.0, sigma, (-128, 127), half=rule(8).half_window(sigma))[0]
    assert int((near > 0).sum()) == size
    assert (whole - near).abs().sum().item() / 2 == pytest.approx(distance, abs=1e-4)


def test_the_window_is_three_sigma_wide_but_never_without_neighbours() -> None:
    sizes = {ratio: 2 * rule(8).half_window(ratio) + 1 for ratio in (1e-3, 0.3, 1 / 3, 0.34, 2 / 3, 1.0)}
    assert rule(8).half_window(float("nan")) == 1 and rule(8).half_window(float("inf")) == 255
    assert sizes == {1e-3: 3, 0.3: 3, 1 / 3: 3, 0.34: 3, 2 / 3: 5, 1.0: 7}
    assert rule(2).half_window(100.0) == 3 and rule(4, local_grid=False).half_window(1e-3) == 15


# Samples


@pytest.mark.parametrize("noise", ["logistic", "gaussian"])
@pytest.mark.parametrize("local", [True, False])
@pytest.mark.parametrize("x", [0.3, 7.2, -30.0])
def test_hard_samples_follow_the_law(noise: str, local: bool, x: float) -> None:
    how = rule(4, noise=noise, local_grid=local)
    wanted = masses(numbers(x), 1.0, 0.5, (-8, 7), noise, how.half_window(0.5))[0].numpy()
    found = drawn(x, 100_000, how, 0.5)
    likely = wanted * 100_000 >= 5
    assert not found[wanted == 0].any()
    rest = (found[~likely].sum(), wanted[~likely].sum() * 100_000)
    assert rest[0] <= rest[1] + 6 * np.sqrt(rest[1]) + 1
    if likely.sum() > 1:
        expected = wanted[likely] / wanted[likely].sum() * found[likely].sum()
        assert chisquare(found[likely], expected).pvalue > 0.001


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_relaxed_samples_are_convex_and_become_hard_as_the_temperature_falls(temperature: float) -> None:
    x = torch.empty(2_000, dtype=DOUBLE).uniform_(-3, 3, generator=draws(1))
    scales = numbers(1.0)[0], numbers(1 / 3)[0]
    hard = sample(x, *scales, rule(3), (-4, 3), draws())
    soft = sample(x, *scales, rule(3, "rq", temperature=temperature), (-4, 3), draws())
    cold = sample(x, *scales, rule(3, "rq", temperature=1e-3), (-4, 3), draws())
    assert ((soft - x.round().clamp(-4, 3)).abs() <= 1).all() and not torch.equal(soft, soft.round())
    assert ((cold - hard).abs() < 1e-3).double().mean() > 0.98, "but for ties"


def test_a_fine_grid_hardly_moves_a_number() -> None:
    x = torch.empty(5_000).uniform_(-1, 1, generator=draws(1))
    for variant in ("rq", "rq_st", "sr"):
        found = sample(x, torch.tensor(1e-4), torch.tensor(1e-7), rule(16, variant), bounds(16, True), draws())
        assert ((found - x).abs() <= 1e-4 + 1e-7).all()


def test_stochastic_rounding_is_the_case_of_uniform_noise() -> None:
    points, x = torch.arange(-8, 8, dtype=DOUBLE) * 0.25, torch.linspace(-2, 1.75, 61, dtype=DOUBLE)
    law = masses(x, 0.25, 0.0, (-8, 7), "uniform", 1)
    mean = (law * points).sum(1)
    scaled = x / 0.25
    assert (mean - x).abs().max() < 1e-12
    variance = (scaled - scaled.floor()) * (scaled.ceil() - scaled) * 0.25**2
    assert ((law * points**2).sum(1) - mean**2 - variance).abs().max() < 1e-12


def test_stochastic_rounding_equals_an_independent_one_in_distribution() -> None:
    found = drawn(0.3, 100_000, rule(4, "sr"))[8:10]
    ups = np.random.default_rng(5).binomial(1, 0.3, 100_000).sum()
    assert found.sum() == 100_000
    assert chi2_contingency([found, [100_000 - ups, ups]], correction=False).pvalue > 0.001
    assert drawn(9.3, 1_000, rule(4, "sr"))[-1] == 1_000


def test_gradients_of_stochastic_rounding_are_those_of_its_mean() -> None:
    x = numbers(-1.4, -0.6, 0.2, 0.9).requires_grad_()
    alpha = numbers(0.5).requires_grad_()
    sample(x, alpha[0], numbers(0.1)[0], rule(2, "sr"), (-2, 1), draws()).backward(numbers(1.0, 10.0, 100.0, 1000.0))
    assert x.grad is not None and x.grad.tolist() == [0, 10, 100, 0]
    assert alpha.grad is not None and alpha.grad.item() == -2 + 1000


def test_samples_are_those_of_the_generator() -> None:
    x = torch.linspace(-1, 1, 101)
    scales = torch.tensor(0.1), torch.tensor(0.03)
    first, again, other = (sample(x, *scales, rule(), (-8, 7), draws(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    before = torch.get_rng_state()
    sample(x, *scales, rule(), (-8, 7), draws())
    assert torch.equal(before, torch.get_rng_state())
    assert sample(x[:0], *scales, rule(), (-8, 7), draws()).shape == (0,)


# Gradients


def smooth(x: Tensor, scale: float) -> Tensor:
    """Numbers away from the midpoints of the grid, where the choice of the nearest point jumps."""
    off = (x / scale - (x / scale).floor() - 0.5).abs()
    return x[off > 1e-2]


@pytest.mark.parametrize("noise", ["logistic", "gaussian"])
@pytest.mark.parametrize("local", [True, False])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_gradients_are_central_differences(noise: str, local: bool, temperature: float) -> None:
    how = rule(3, "rq", noise=noise, local_grid=local, temperature=temperature)
    alpha, sigma, h = 0.6, 0.25, 1e-5
    x = smooth(torch.linspace(-3.2, 2.7, 60, dtype=DOUBLE), alpha)

    def value(x: Tensor, a: float, s: float) -> Tensor:
        return sample(x, numbers(a)[0], numbers(s)[0], how, (-4, 3), draws())

    moved = x.clone().requires_grad_()
    scales = numbers(alpha).requires_grad_(), numbers(sigma).requires_grad_()
    weight = torch.linspace(0.5, 2, len(x), dtype=DOUBLE)
    (sample(moved, scales[0][0], scales[1][0], how, (-4, 3), draws()) * weight).sum().backward()
    by_x = (value(x + h, alpha, sigma) - value(x - h, alpha, sigma)) / (2 * h) * weight
    by_alpha = ((value(x, alpha + h, sigma) - value(x, alpha - h, sigma)) / (2 * h) * weight).sum()
    by_sigma = ((value(x, alpha, sigma + h) - value(x, alpha, sigma - h)) / (2 * h) * weight).sum()
    for found, wanted in ((moved.grad, by_x), (scales[0].grad, by_alpha[None]), (scales[1].grad, by_sigma[None])):
        assert found is not None
        torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("half", [1.0, 15.0])
def test_gradients_of_the_mean_are_central_differences(half: float) -> None:
    """Where all runners of the race are equally fast, a sample at temperature 1 is the mean of the law."""
    grid, alpha, sigma, h = (-8, 7), 0.6, 0.2, 1e-5
    how = rule(4, "rq", delta_w=half * alpha / sigma)
    points = torch.arange(-8, 8, dtype=DOUBLE)
    x = smooth(torch.linspace(-5.5, 5, 40, dtype=DOUBLE), alpha)

    def mean(x: Tensor, a: float, s: float) -> Tensor:
        return (masses(x, a, s, grid, half=how.half_window(sigma / alpha)) * points * a).sum(1)

    race = torch.ones(min(2 * int(half) + 1, 16), len(x), dtype=DOUBLE)
    value, by_x, by_alpha, by_sigma = relax(x, race, alpha, sigma, how, grid)
    torch.testing.assert_close(value, mean(x, alpha, sigma), rtol=1e-12, atol=1e-12)
    for found, high, low in (
        (by_x, (x + h, alpha, sigma), (x - h, alpha, sigma)),
        (by_alpha, (x, alpha + h, sigma), (x, alpha - h, sigma)),
        (by_sigma, (x, alpha, sigma + h), (x, alpha, sigma - h)),
    ):
        torch.testing.assert_close(found, (mean(*high) - mean(*low)) / (2 * h), rtol=1e-6, atol=1e-8)


def test_straight_through_is_hard_forward_and_relaxed_backward() -> None:
    x = torch.empty(1_000).uniform_(-1, 1, generator=draws(1))
    found = []
    for variant in ("rq_st", "rq"):
        inputs = x.clone().requires_grad_(), torch.tensor(0.11, requires_grad=True), torch.tensor(0.04, requires_grad=True)
        value = sample(*inputs, rule(4, variant), (-8, 7), draws())
        found.append((value, *torch.autograd.grad(value.sum(), inputs)))
    (hard, *backward), (soft, *relaxed) = found
    steps = (hard / 0.11).round()
    assert torch.equal(hard, torch.tensor(0.11) * steps) and set(steps.tolist()) <= set(range(-8, 8))
    assert not torch.equal(hard, soft)
    for ours, theirs in zip(backward, relaxed, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("noise", ["logistic", "gaussian"])
@pytest.mark.parametrize("variant", ["rq", "rq_st", "sr"])
def test_nothing_overflows_in_single_precision(variant: str, noise: str) -> None:
    for bits in (1, 2, 4, 8):
        low, high = grid = bounds(bits, True)
        for alpha in (1e-6, 1.0, 1e4):
            x = (
                torch.tensor([low - 1e6, low - 10, low - 0.5, low, 0.0, 0.5, 0.3, high, high + 0.5, high + 10, high + 1e6])
                * alpha
            )
            for ratio in (1e-3, 1 / 3, 1.0, 1e3):
                how = rule(bits, variant, noise=noise, temperature=0.5)
                inputs = x.clone().requires_grad_(), torch.tensor(alpha, requires_grad=True)
                sigma = torch.tensor(alpha * ratio, requires_grad=True)
                value = sample(*inputs, sigma, how, grid, draws())
                value.sum().backward()
                assert torch.isfinite(value).all() and (value.abs() <= max(-low, high) * alpha * 1.001).all()
                for tensor in (*inputs, sigma):
                    assert tensor.grad is not None and torch.isfinite(tensor.grad).all(), (bits, alpha, ratio)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_single(dtype: torch.dtype) -> None:
    x, scales = torch.linspace(-1, 1, 101).to(dtype), (torch.tensor(0.125), torch.tensor(0.04))
    found = sample(x, *scales, rule(), (-8, 7), draws())
    assert found.dtype == dtype and torch.equal(found.float(), sample(x.float(), *scales, rule(), (-8, 7), draws()))


# Cost


class Largest(TorchDispatchMode):
    """Notes the largest tensor that any operation makes."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers, self.written = 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            size = tensor.numel() if isinstance(tensor, Tensor) else 0
            self.numbers, self.written = max(self.numbers, size), self.written + size
        return out


@pytest.mark.parametrize(("bits", "local"), [(4, True), (8, True), (8, False)])
def test_no_copies_for_the_points_of_the_grid(bits: int, local: bool) -> None:
    x, scales = torch.linspace(-1, 1, BLOCK // 2), (torch.tensor(0.1), torch.tensor(0.03))
    with Largest() as largest:
        sample(x, *scales, rule(bits, local_grid=local), bounds(bits, True), draws())
    assert largest.numbers == 4 * x.numel(), "values and three derivatives; 2^b of them would be more"


def test_work_does_not_grow_with_the_bits() -> None:
    """As many numbers are written by all operations together, whatever the width of the grid."""
    x = torch.empty(30_000).uniform_(-1, 1, generator=draws(1))

    def written(bits: int) -> int:
        scale = torch.tensor(2.0**-bits)
        with Largest() as largest:
            sample(x, scale, scale / 3, rule(bits), bounds(bits, True), draws())
        return largest.written

    assert written(8) == written(4) > x.numel()


# Test time and the module


@pytest.mark.parametrize("signed", [True, False])
def test_test_time_is_rounding(signed: bool) -> None:
    low, high = grid = bounds(4, signed)
    x = torch.empty(100_000, dtype=DOUBLE).uniform_(-3, 3, generator=draws())
    x[:400] = torch.arange(-200, 200) * 0.125  # on the grid, and ties
    found = rounded(x, 0.25, grid)
    assert np.array_equal(found.numpy(), np.clip(np.rint(x.numpy() / 0.25), low, high) * 0.25)
    single = rounded(x.float(), torch.tensor(0.1), grid)
    assert torch.equal(rounded(single, torch.tensor(0.1), grid), single)
    assert len(single.unique()) == 16


@pytest.mark.parametrize(
    ("bits", "signed", "grid"), [(1, True, (-1, 0)), (2, True, (-2, 1)), (2, False, (0, 3)), (8, False, (0, 255))]
)
def test_grids(bits: int, signed: bool, grid: Bounds) -> None:
    assert bounds(bits, signed) == grid


def test_a_quantizer_begins_at_what_it_sees() -> None:
    behind_relu, pictures = Quantizer(rule(2), draws()), Quantizer(rule(2), draws())
    with pytest.raises(RuntimeError, match="before any tensor was seen"):
        _ = behind_relu.logs
    behind_relu(torch.tensor([0.0, 1.0, 6.0]))
    pictures(torch.tensor([-1.0, 0.0, 2.0]))
    assert behind_relu.grid == (0, 3) and pictures.grid == (-2, 1)
    torch.testing.assert_close(behind_relu.logs.exp(), torch.tensor([2.0, 2.0 / 3]))
    torch.testing.assert_close(pictures.logs.exp(), torch.tensor([1.0, 1.0 / 3]))
    behind_relu(torch.tensor([-50.0, 50.0]))
    assert behind_relu.grid == (0, 3), "only the first tensor counts"


def test_the_first_step_of_least_error_is_near_the_best_there_is() -> None:
    """For 2 bits and the normal law, the levels -2 .. 1 have their least squared error near alpha = 1."""
    x = torch.randn(20_000, generator=draws())
    found = first_alpha(x, rule(2, start="mse"), (-2, 1))
    errors = {a: float((rounded(x, a, (-2, 1)) - x).square().mean()) for a in np.linspace(0.3, 3, 200)}
    assert float((rounded(x, found, (-2, 1)) - x).square().mean()) < 1.03 * min(errors.values())
    assert first_alpha(torch.zeros(5), rule(2), (-2, 1)) == 1.0
    assert first_alpha(torch.tensor([0.0, 3.0]), rule(2, start="mse"), (0, 3)) == pytest.approx(1.0, abs=0.02)


def test_evaluation_rounds_and_draws_nothing() -> None:
    quantizer, x = Quantizer(rule(3), draws(), signed=True), torch.linspace(-1, 1, 50)
    noisy = quantizer(x)
    before = quantizer.draws.get_state()
    plain = quantizer.eval()(x)
    assert torch.equal(quantizer.draws.get_state(), before)
    assert torch.equal(plain, rounded(x, quantizer.logs[0].exp(), (-4, 3))) and not torch.equal(plain, noisy)


def test_logs_are_learned_and_move_from_where_they_were_given() -> None:
    quantizer = Quantizer(rule(3), draws(), signed=True)
    quantizer.load(-1.0, -2.0)
    x = torch.linspace(-1, 1, 500, requires_grad=True)
    quantizer(x).square().sum().backward()
    assert quantizer.moved.grad is not None and (quantizer.moved.grad != 0).all() and x.grad is not None
    with torch.no_grad():
        quantizer.moved += torch.tensor([0.5, -9.0])
    torch.testing.assert_close(quantizer.logs, torch.tensor([-0.5, -11.0]))
    alpha, sigma = quantizer.scales()
    torch.testing.assert_close(torch.stack([alpha, sigma]), torch.exp(torch.tensor([-0.5, -0.5])) * torch.tensor([1, 1e-3]))
    twin = copy.deepcopy(quantizer)
    assert torch.equal(twin(x), quantizer(x)), "a copy goes on with the same noise"
