"""Stochastic gradient descent."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from fedwarm.optimisers import Light
from fedwarm.settings.config import Config
from fedwarm.settings.fields import Group, SettingError, setting
from fedwarm.settings.registry import component
from fedwarm.training.plan import Plan


@dataclass(frozen=True)
class SgdSettings(Group, prefix="sgd"):
    """Settings of stochastic gradient descent."""

    nesterov: bool = setting(
        False,
        "true: Nesterov momentum, a step along g + m v, where v is the momentum that includes the gradient g; false: "
        "plain momentum",
    )


class Sgd(Light, torch.optim.SGD):
    """`torch.optim.SGD` without torch's compiler."""


def validate(config: Config) -> None:
    """Refuse Nesterov's momentum without momentum.

    Raises:
        SettingError: there is none.
    """
    if config.of(SgdSettings).nesterov and not config.run.momentum:
        raise SettingError("sgd.nesterov = true means nothing with momentum = 0; set momentum, e.g. 0.9, or sgd.nesterov = false")


def path(rates: Sequence[float], momentum: float, settings: SgdSettings) -> float:
    """How far steps of these sizes r_k lead along a constant gradient of length 1, from an empty momentum, without weight decay.

    The sum over k of r_k (1 - m^k) / (1 - m); of Nesterov's momentum, r_k (1 - m^(k + 1)) / (1 - m).
    """
    ahead = int(settings.nesterov)
    if not ahead and len({*rates}) == 1:
        lost = momentum * (1 - momentum ** len(rates)) / (1 - momentum)
        return rates[0] * (len(rates) - lost) / (1 - momentum)
    return sum(rate * (1 - momentum ** (k + ahead)) / (1 - momentum) for k, rate in enumerate(rates, 1))


@component(settings=SgdSettings, validate=validate, path=path, elementwise=True)
def sgd(parameters: Iterable[nn.Parameter], plan: Plan, settings: SgdSettings) -> torch.optim.Optimizer:
    """Stochastic gradient descent: v <- m v + g + d w, w <- w - r v."""
    return Sgd(
        parameters, lr=plan.learning_rate, momentum=plan.momentum, weight_decay=plan.weight_decay, nesterov=settings.nesterov
    )


COMPONENT = sgd
