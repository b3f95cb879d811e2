"""Adam with decoupled weight decay."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from fedwarm.optimisers import Light
from fedwarm.settings.fields import Group, setting
from fedwarm.settings.registry import component
from fedwarm.training.plan import Plan


@dataclass(frozen=True)
class AdamWSettings(Group, prefix="adamw"):
    """Settings of AdamW; its first beta is `momentum`."""

    beta2: float = setting(0.999, "decay of the running mean of squared gradients", low=0.0, high=0.999999)
    eps: float = setting(1e-8, "added to the denominator of a step, for numerical stability", low=1e-12)


class AdamW(Light, torch.optim.AdamW):
    """`torch.optim.AdamW` without torch's compiler."""


@component(settings=AdamWSettings, elementwise=True)
def adamw(parameters: Iterable[nn.Parameter], plan: Plan, settings: AdamWSettings) -> torch.optim.Optimizer:
    """Adam with decoupled weight decay (Loshchilov and Hutter, arXiv 1711.05101); its first beta is `momentum`."""
    betas = (plan.momentum, settings.beta2)
    return AdamW(parameters, plan.learning_rate, betas, settings.eps, weight_decay=plan.weight_decay)


COMPONENT = adamw
