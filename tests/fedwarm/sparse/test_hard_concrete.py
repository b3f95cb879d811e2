"""Hard concrete gates against their closed forms, and what a spike-and-slab prior costs against differences."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from fedwarm.sparse.hard_concrete import MOST, active, clamped, deterministic, divergence, log_alpha_of, sampled


@pytest.mark.parametrize(("la", "on", "gate"), [(0.0, 0.831822, 0.5), (-2.0, 0.400975, 0.043044), (2.0, 0.973367, 0.956956)])
def test_closed_forms(la: float, on: float, gate: float) -> None:
    """P(z != 0), the gate without noise, and the share of 1e5 draws that are not 0 within 4 standard errors."""
    value = torch.tensor(la, dtype=torch.float64)
    assert active(value).item() == pytest.approx(on, abs=1e-6)
    assert deterministic(value).item() == pytest.approx(gate, abs=1e-6)
    noise = torch.rand(100_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    share = (sampled(value.expand(100_000), noise) != 0).double().mean().item()
    assert abs(share - on) < 4 * math.sqrt(on * (1 - on) / 1e5)


def test_where_gates_shut_and_where_they_are_clamped() -> None:
    edge = math.log(1 / 11)  # sigmoid(la) (zeta - gamma) = -gamma
    assert edge == pytest.approx(-2.397895, abs=1e-6)
    assert deterministic(torch.tensor([edge - 1e-6, edge + 1e-6])).tolist() == [0.0, pytest.approx(1e-7, abs=2e-7)]
    ends = active(clamped(torch.tensor([-100.0, 100.0], dtype=torch.float64)))
    np.testing.assert_allclose(ends, [0.047130, 0.997982], atol=1e-6)  # of la = 4.60517; 4.605 gives .047137


def test_log_alpha_is_the_inverse_of_the_probability() -> None:
    theta = torch.tensor([0.05, 0.3, 0.9, 0.99], dtype=torch.float64)
    torch.testing.assert_close(active(log_alpha_of(theta)), theta)
    assert log_alpha_of(torch.tensor([0.0, 1.0])).tolist() == pytest.approx([-MOST, MOST])


def test_divergence() -> None:
    """0 of equal ones, its gradient is the difference of the log odds, and it is finite at the clamps."""
    pi = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64, requires_grad=True)
    theta = torch.tensor([0.3, 0.5, 0.2], dtype=torch.float64)
    assert divergence(theta, theta).tolist() == [0.0, 0.0, 0.0]
    (gradient,) = torch.autograd.grad(divergence(pi, theta).sum(), pi)
    expected: Tensor = torch.logit(pi) - torch.logit(theta)
    torch.testing.assert_close(gradient, expected.detach(), rtol=1e-8, atol=1e-8)
    ends = active(torch.tensor([-MOST, MOST], dtype=torch.float64))
    assert torch.isfinite(divergence(ends, ends.flip(0))).all()
