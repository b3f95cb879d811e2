"""Uniform quantizers against torch's reference element for element, and what any of them must do."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fedwarm.quantize.ranges import grid_of
from fedwarm.quantize.uniform import Grid, affine_grid, checked_bits, levels, quantize
from fedwarm.settings.fields import SettingError

BITS = (2, 3, 4, 6, 8)


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def symmetric(step: float, bits: int) -> Grid:
    low, high = levels(bits)
    return Grid(torch.tensor(step), torch.tensor(float(low)), torch.tensor(float(high)))


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("affine", [False, True])
def test_values_and_gradients_are_torchs_per_tensor(bits: int, affine: bool) -> None:
    """Also at ties and out of range."""
    grid = grid_of(numbers(500) + 0.3, bits, rule="minmax", affine=affine)
    zero = -int(grid.low) if affine else 0
    last = int(grid.high) + zero
    ties = (torch.arange(-300, 300) + 0.5) * grid.step
    x = torch.cat([3 * numbers(5000, seed=1), ties, ties * (1 + 1e-7)])
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    mine = quantize(ours, grid)
    reference = torch.fake_quantize_per_tensor_affine(theirs, float(grid.step), zero, int(grid.low) + zero, last)
    assert torch.equal(mine, reference) and torch.equal(mine, grid.nearest(x))
    away = numbers(len(x), seed=2)
    mine.backward(away)
    reference.backward(away)
    assert ours.grad is not None and theirs.grad is not None
    assert torch.equal(ours.grad, theirs.grad) and bool((ours.grad == 0).any())


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("affine", [False, True])
def test_values_and_gradients_are_torchs_per_channel(bits: int, affine: bool) -> None:
    weight = numbers(6, 5, 3, 3) * torch.arange(1, 7).reshape(6, 1, 1, 1) + 0.2
    grid = grid_of(weight, bits, affine=affine, per_channel=True)
    zero = -grid.low.flatten() if affine else torch.zeros(6)
    first, last = (0, 2**bits - 1) if affine else levels(bits)
    ours, theirs = weight.clone().requires_grad_(), weight.clone().requires_grad_()
    mine = quantize(ours, grid)
    reference = torch.fake_quantize_per_channel_affine(theirs, grid.step.flatten(), zero.int(), 0, first, last)
    assert torch.equal(mine, reference)
    mine.sum().backward()
    reference.sum().backward()
    assert ours.grad is not None and theirs.grad is not None and torch.equal(ours.grad, theirs.grad)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("rule", ["mse", "minmax"])
@pytest.mark.parametrize("full_range", [False, True])
def test_a_symmetric_grid(bits: int, rule: str, full_range: bool) -> None:
    """Idempotent, odd, few values, at most half a step away inside the range."""
    x = numbers(4000)
    grid = grid_of(x, bits, rule=rule, full_range=full_range)
    q = grid.nearest(x)
    assert torch.equal(grid.nearest(q), q)
    assert len(q.unique()) <= 2**bits - (not full_range)
    if not full_range:
        assert torch.equal(grid.nearest(-x), -q)
    inside = (x >= grid.low * grid.step) & (x <= grid.high * grid.step)
    assert bool(inside.any()) and float((x - q)[inside].abs().max()) <= float(grid.step) / 2 * (1 + 1e-6)
    codes = grid.codes(x)
    assert torch.equal(codes, codes.round()) and torch.equal(codes * grid.step, q)


def test_straight_through_is_one_inside_and_zero_outside() -> None:
    """d loss / dw equals d loss / dQ inside and is 0 outside, element by element."""
    grid = symmetric(0.25, 3)
    weight = torch.linspace(-2, 2, 401).requires_grad_()
    inside = weight.detach().abs() <= 0.25 * 3.5
    target = numbers(401)
    q = quantize(weight, grid)
    q.retain_grad()
    (q - target).pow(3).sum().backward()
    assert weight.grad is not None and q.grad is not None
    for w, gradient, through, ins in zip(weight.tolist(), weight.grad.tolist(), q.grad.tolist(), inside.tolist(), strict=True):
        assert gradient == (through if ins else 0.0), w
    assert 0 < int(inside.sum()) < 401


def test_zero_is_on_every_affine_grid() -> None:
    for lowest, highest in ((-1.0, 2.0), (0.5, 2.0), (-3.0, -1.0), (0.0, 0.0), (-1e-3, 1e4)):
        grid = affine_grid(torch.tensor(lowest), torch.tensor(highest), 4)
        assert float(grid.nearest(torch.tensor(0.0))) == 0.0
        assert float(grid.high - grid.low) == 15 and float(grid.low) <= 0 <= float(grid.high)
        ends = (min(lowest, 0.0), max(highest, 0.0))
        for end in ends:
            assert abs(float(grid.nearest(torch.tensor(end))) - end) <= float(grid.step) / 2 * (1 + 1e-6)


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("rule", ["mse", "minmax"])
def test_zeros_map_to_zeros(affine: bool, rule: str) -> None:
    for x in (torch.zeros(3, 4), torch.full((3, 4), 1e-45)):
        weight = x.clone().requires_grad_()
        q = quantize(weight, grid_of(x, 4, rule=rule, affine=affine))
        q.sum().backward()
        assert bool(torch.isfinite(q).all()) and float(q.detach().abs().max()) <= 1e-37
        assert weight.grad is not None and bool(torch.isfinite(weight.grad).all())
    mixed = torch.stack([torch.zeros(5), torch.ones(5)])
    assert torch.equal(grid_of(mixed, 4, affine=affine, per_channel=True).nearest(mixed), mixed)


def test_the_gradients_bound_holds_with_equality_at_half_steps() -> None:
    """||grad F(Q(w)) - grad F(w)||^2 <= L^2 d Delta^2 / 4 for F = L/2 ||w||^2, with equality where every w is half way."""
    grid, curvature = symmetric(0.5, 4), 3.0
    half = (torch.tensor([-3.0, -1.0, 0.0, 2.0, 5.0]) + 0.5) * 0.5
    bound = curvature**2 * len(half) * 0.5**2 / 4
    assert float((curvature * (grid.nearest(half) - half)).square().sum()) == bound
    inside = (torch.rand(1000, generator=torch.Generator().manual_seed(0)) * 2 - 1) * 3.5
    moved = (curvature * (grid.nearest(inside) - inside)).square().sum()
    assert float(moved) < curvature**2 * 1000 * 0.5**2 / 4


@pytest.mark.parametrize("bits", [-1, 0, 1, 17, 31, 33])
def test_widths_that_are_none_are_refused(bits: int) -> None:
    with pytest.raises(SettingError, match=str(bits)):
        checked_bits(bits)
    with pytest.raises(SettingError, match=str(bits)):
        grid_of(torch.ones(3), bits)


def test_levels() -> None:
    assert [levels(b) for b in (2, 3, 8)] == [(-1, 1), (-3, 3), (-127, 127)]
    assert levels(4, full_range=True) == (-8, 7)
    assert checked_bits(32) == 32
