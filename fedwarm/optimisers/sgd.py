"""Stochastic gradient descent."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from fedwarm.optimisers import Light
from fedwarm.training.plan import Plan


class Sgd(Light, torch.optim.SGD):
    """`torch.optim.SGD` without torch's compiler."""


def sgd(parameters: Iterable[nn.Parameter], plan: Plan) -> torch.optim.Optimizer:
    """Stochastic gradient descent: v <- m v + g + d w, w <- w - r v."""
    return Sgd(parameters, lr=plan.learning_rate, momentum=plan.momentum, weight_decay=plan.weight_decay)


COMPONENT = sgd
