"""Ranges: against torch's observers, a brute-force search, and the known optima of a normal law."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.ao.quantization import MinMaxObserver, PerChannelMinMaxObserver

from fedwarm.quantize.ranges import CANDIDATES, SAMPLE, Running, grid_of, spread, stride
from fedwarm.quantize.uniform import Grid

BITS = (2, 3, 4, 6, 8)


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def error(x: Tensor, grid: Grid) -> float:
    return float((x.double() - grid.nearest(x).double()).square().mean())


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_min_max_is_torchs_observers(bits: int) -> None:
    x, last = numbers(7, 30) + 0.4, 2**bits - 1
    affine = MinMaxObserver(dtype=torch.quint8, qscheme=torch.per_tensor_affine, quant_min=0, quant_max=last)
    affine(x)
    step, zero = affine.calculate_qparams()
    grid = grid_of(x, bits, rule="minmax", affine=True)
    assert float(grid.step) == float(step) and -int(grid.low) == int(zero)
    most = last // 2
    even = MinMaxObserver(dtype=torch.qint8, qscheme=torch.per_tensor_symmetric, quant_min=-most, quant_max=most)
    even(x)
    assert float(grid_of(x, bits, rule="minmax").step) == float(even.calculate_qparams()[0])
    channels = PerChannelMinMaxObserver(dtype=torch.qint8, qscheme=torch.per_channel_symmetric, quant_min=-most, quant_max=most)
    channels(x)
    assert torch.equal(grid_of(x, bits, rule="minmax", per_channel=True).step.flatten(), channels.calculate_qparams()[0])


OPTIMA = [(2, 1.224, 0.1902), (3, 0.651, 0.0469), (4, 0.353, 0.0129), (6, 0.1055, 0.00107)]


@pytest.mark.parametrize(("bits", "step", "least"), OPTIMA)
def test_the_optimum_of_a_normal_law(bits: int, step: float, least: float) -> None:
    """Step within 5 %, squared error within 2 % of the numerical optimum of 2^b - 1 even levels."""
    x = numbers(10**6)
    grid = grid_of(x, bits)
    assert float(grid.step) == pytest.approx(step, rel=0.05)
    assert error(x, grid) == pytest.approx(least, rel=0.02)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("kind", ["symmetric", "full", "affine"])
def test_the_least_squared_error_is_found(bits: int, kind: str) -> None:
    """Against quantizing by each of the candidates; never worse than min-max, which is one of them."""
    x = numbers(2000).pow(3) + (0.5 if kind == "affine" else 0.1)
    options = {"affine": kind == "affine", "full_range": kind == "full"}
    widest, found = grid_of(x, bits, rule="minmax", **options), grid_of(x, bits, **options)
    tried = [error(x, Grid(widest.step * ((j + 1) / CANDIDATES), widest.low, widest.high)) for j in range(CANDIDATES)]
    assert error(x, found) <= min(tried) * (1 + 1e-5)
    assert error(x, found) <= error(x, widest)
    assert torch.equal(found.low, widest.low) and torch.equal(found.high, widest.high)


@pytest.mark.parametrize("affine", [False, True])
def test_channels_are_searched_one_by_one(affine: bool) -> None:
    weight = numbers(9, 4, 5, 5) * torch.arange(1, 10).reshape(9, 1, 1, 1) + 0.3
    grid = grid_of(weight, 4, affine=affine, per_channel=True)
    alone = [grid_of(row, 4, affine=affine) for row in weight]
    assert grid.step.shape == (9, 1, 1, 1)
    assert torch.equal(grid.step.flatten(), torch.stack([g.step for g in alone]))
    assert torch.equal(grid.low.flatten(), torch.stack([g.low for g in alone]))


def test_many_channels_are_cut_into_pieces_that_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = numbers(50, 20)
    whole = grid_of(weight, 6, per_channel=True).step
    monkeypatch.setattr("fedwarm.quantize.ranges.QUERIES", 20_000)
    assert torch.equal(grid_of(weight, 6, per_channel=True).step, whole)


def test_the_range_has_no_gradient_and_the_dtype_of_its_values() -> None:
    weight = numbers(40).requires_grad_()
    assert not grid_of(weight, 4).step.requires_grad
    assert grid_of(numbers(40).double(), 4).step.dtype == torch.float64
    half = grid_of(numbers(40).half(), 4).step
    assert half.dtype == torch.float32 and half.shape == ()


def test_wide_grids_take_min_max() -> None:
    x = numbers(500)
    assert float(grid_of(x, 12).step) == float(grid_of(x, 12, rule="minmax").step)


def test_spread_holds_the_ends_and_no_more_than_asked() -> None:
    x = numbers(10, 31_000)
    thin = spread(x)
    assert len(thin) <= SAMPLE and float(thin.min()) == float(x.min()) and float(thin.max()) == float(x.max())
    assert torch.equal(spread(x[0, :5])[:5], x[0, :5])


def test_a_stride_visits_every_column_and_kernel_position() -> None:
    for shape, most in (((64, 16, 32, 32), 1 << 13), ((512, 512, 3, 3), 1 << 17), ((3, 5), 100)):
        columns = torch.arange(shape[-1]).expand(shape).reshape(-1)
        rows = torch.arange(shape[-2])[:, None].expand(shape).reshape(-1)
        step = stride(len(columns), most)
        assert len(columns[::step]) <= most
        assert len(columns[::step].unique()) == shape[-1] and len(rows[::step].unique()) == shape[-2]
    assert stride(100, 100) == 1 and stride(101, 100) == 11


def test_the_running_range_is_an_exponential_moving_average() -> None:
    running = Running("minmax", decay=0.75)
    low, high = -1.0, 3.0
    running.update(torch.tensor([low, 0.0, high]), 8)
    for a, b in ((-2.0, 1.0), (-0.5, 6.0)):
        grid = running.update(torch.tensor([a, b]), 8)
        low, high = 0.75 * low + 0.25 * a, 0.75 * high + 0.25 * b
        step = (high - low) / 255
        assert float(grid.step) == pytest.approx(step, rel=1e-2)
        assert float(grid.low * grid.step) == pytest.approx(low, abs=2 * step)
    assert set(running.ends) == {8}
    running.update(torch.ones(4), 2)
    assert float(running.ends[2][1]) == 1.0 and float(running.ends[2][0]) == 0.0
