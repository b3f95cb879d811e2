"""Local steps along a mixture of the own gradient and a direction that the server tells.

Cheng, Huang, Wu, Yuan, "Momentum Benefits Non-IID Federated Learning Simply and Provably", arXiv 2306.16504; the same in each
step as FedCM (Xu, Wang, Wang, Yao, arXiv 2106.10874).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedwarm.settings.config import Config
from fedwarm.settings.fields import Group, SettingError, setting
from fedwarm.training.loop import Hook
from fedwarm.training.private import hidden

DIRECTION, STEPS = "direction", "steps"


@dataclass(frozen=True)
class Mixture(Group):
    """How much of a step is the client's own; a method gives it a prefix."""

    beta: float = setting(
        0.1,
        "weight of a client's own gradient; the server's direction has weight 1 - beta; 1: no momentum",
        low=1e-3,
        high=1.0,
    )
    first: str = setting(
        "zero",
        "direction of the server in the first round; zero: none, so that steps are beta times as long; plain: none, "
        "with steps of full length",
        choices=("zero", "plain"),
    )  # fmt: skip

    def told(self, number: int) -> bool:
        """Whether a direction is told in a round, counted from 1."""
        return self.beta < 1 and (number > 1 or self.first == "zero")


class Mixed(Hook):
    """Each step's gradient becomes beta times itself and (1 - beta) times the direction.

    The optimiser's weight decay is a part of a client's own gradient, which the direction of the round before holds already: what
    it is about to add in full is taken back to its share.

    Args:
        beta: the gradient's weight.
        direction: by the parameters' names.
        decay: the weight decay that the optimiser adds to a gradient.
    """

    uses = "weights"

    def __init__(self, beta: float, direction: Mapping[str, Tensor], decay: float = 0.0) -> None:
        self.beta, self.direction, self.decay = beta, direction, decay

    @torch.no_grad()
    def gradient(self, model: nn.Module) -> None:
        for name, parameter in model.named_parameters():
            told = self.direction.get(name.replace("parametrizations.", "").removesuffix(".original"))
            if told is not None and parameter.grad is not None:
                parameter.grad.mul_(self.beta).add_(told.to(parameter.grad), alpha=1 - self.beta)
                if self.decay:
                    parameter.grad.add_(parameter, alpha=(self.beta - 1) * self.decay)


def directed(config: Config) -> None:
    """Refuse what does not go with a told direction.

    Raises:
        SettingError: there is local momentum, or the codec hides what clients hold, of which their steps would tell.
    """
    without_momentum(config)
    if hidden(config):
        raise SettingError(
            f"method {config.run.method!r} tells the server how many steps a client takes, and so about how much it "
            f"holds; codec = "
            f"{config.run.codec!r} hides that: use another codec or another method"
        )


def without_momentum(config: Config) -> None:
    """Refuse local momentum, for methods that correct each step's gradient.

    Raises:
        SettingError: there is some.
    """
    if config.run.momentum:
        raise SettingError(
            f"momentum = {config.run.momentum:g} cannot be used with method {config.run.method!r}, which corrects each step; "
            "set momentum = 0"
        )
