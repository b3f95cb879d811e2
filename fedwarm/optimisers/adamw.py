"""Adam with decoupled weight decay."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from fedwarm.optimisers import Light
from fedwarm.training.plan import Plan

SECOND = 0.999


class AdamW(Light, torch.optim.AdamW):
    """`torch.optim.AdamW` without torch's compiler."""


def adamw(parameters: Iterable[nn.Parameter], plan: Plan) -> torch.optim.Optimizer:
    """Adam with decoupled weight decay (Loshchilov and Hutter, arXiv 1711.05101); betas `momentum` and .999."""
    return AdamW(parameters, plan.learning_rate, (plan.momentum, SECOND), weight_decay=plan.weight_decay)


COMPONENT = adamw
