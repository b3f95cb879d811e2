"""Clipped gradients."""

from __future__ import annotations

from math import sqrt

import pytest
import torch
from torch import nn

from fedwarm.quantize.hooks import ClipGradient


def test_a_gradient_is_scaled_down_to_the_norm() -> None:
    model = nn.Linear(3, 2)
    for p in model.parameters():
        p.grad = torch.full_like(p, 5.0)
    ClipGradient(2.0).gradient(model)
    squares = [float(p.grad.square().sum()) for p in model.parameters() if p.grad is not None]
    assert sqrt(sum(squares)) == pytest.approx(2.0, rel=1e-4)
