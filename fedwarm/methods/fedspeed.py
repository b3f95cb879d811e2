"""FedSpeed: Sun, Shen, Huang, Ding, Tao, "FedSpeed: Larger Local Interval, Less Communication Round, and Higher Generalization
Accuracy", ICLR 2023, arXiv 2302.10429.

A proximal term keeps clients near the received model, what they drifted in earlier rounds corrects its bias, and each step's
gradient is taken after an ascent step. The mixing weight alpha and the sent vector are recalled, not read again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedwarm.methods import Method
from fedwarm.settings.config import Config
from fedwarm.settings.fields import Group, SettingError, setting
from fedwarm.training.directions import without_momentum
from fedwarm.training.loop import Hook
from fedwarm.training.private import hidden

TINY = 1e-7


@dataclass(frozen=True)
class FedSpeed(Group, prefix="fedspeed"):
    """Settings of FedSpeed."""

    penalty: float = setting(
        0.1, "lambda_c, weight of the pull towards the received weights, corrected by the drift so far", low=0.0
    )
    correction: bool = setting(True, "correct each step by a client's accumulated drift, which it sends with its weights")
    rho: float = setting(0.1, "length of the ascent step before the second gradient; 0: no second gradient", low=0.0)
    alpha: float = setting(
        1.0,
        "weight of the second gradient beside 1 - alpha of the first",
        low=0.0,
        high=1.0,
        when=lambda r: r["fedspeed.rho"] > 0,
    )
    clip: float = setting(10.0, "L2 norm to which each step's gradient is clipped; 0: no clipping", low=0.0)
    server: str = setting(
        "sent",
        "drifts that the server adds to the mean; sent: those of the round's clients, by their weights; memory: those of "
        "all clients, which the server keeps: much better where few of unlike clients take part",
        choices=("sent", "memory"), when=lambda r: bool(r["fedspeed.correction"]),
    )  # fmt: skip

    @property
    def remembers(self) -> bool:
        """Whether the server keeps the mean of all drifts."""
        return self.correction and self.server == "memory"


class Speed(Hook):
    """g <- (1 - alpha) g(x) + alpha g(x + rho g / ||g||) + lambda_c (x - x_0 + h), with h the drift by the parameters' names."""

    def __init__(self, settings: FedSpeed, drift: Mapping[str, Tensor]) -> None:
        self.settings, self.drift = settings, drift

    def prepare(self, model: nn.Module) -> None:
        names = (name.replace("parametrizations.", "").removesuffix(".original") for name, _ in model.named_parameters())
        pairs = zip(names, model.parameters(), strict=True)
        self.anchors = [p.detach() - self.drift[n].to(p) if n in self.drift else p.detach().clone() for n, p in pairs]

    @torch.no_grad()
    def again(self, model: nn.Module, retake: Callable[[], Tensor]) -> None:
        if not self.settings.rho:
            return
        moved = [p for p in model.parameters() if p.grad is not None]
        first, kept = [p.grad for p in moved if p.grad is not None], [p.detach().clone() for p in moved]
        step = self.settings.rho / (torch.stack([g.square().sum() for g in first]).sum().sqrt() + TINY)
        for p, g in zip(moved, first, strict=True):
            p.add_(step * g)
        with torch.enable_grad():
            retake()
        for p, start, g in zip(moved, kept, first, strict=True):
            p.copy_(start)
            if p.grad is not None and self.settings.alpha < 1:
                p.grad.mul_(self.settings.alpha).add_(g, alpha=1 - self.settings.alpha)

    @torch.no_grad()
    def gradient(self, model: nn.Module) -> None:
        for p, anchor in zip(model.parameters(), self.anchors, strict=True):
            if p.grad is not None and self.settings.penalty:
                p.grad.add_(p - anchor, alpha=self.settings.penalty)
        if self.settings.clip:
            nn.utils.clip_grad_norm_(model.parameters(), self.settings.clip)


def validate(config: Config) -> None:
    """Refuse local momentum, and noise that the server's memory would keep for ever, as it is a sum of all changes.

    Raises:
        SettingError: there is some.
    """
    without_momentum(config)
    if hidden(config) and config.of(FedSpeed).remembers:
        raise SettingError(
            f"codec = {config.run.codec!r} cannot be used with fedspeed.server = 'memory', which sums up all changes and so "
            "their noise; set fedspeed.server = 'sent', or take another codec"
        )


COMPONENT = Method(
    "FedSpeed",
    "proximal local steps with gradients taken after an ascent step (Sun et al., 2023)",
    FedSpeed,
    preset={"momentum": 0.0, "learning-rate": 0.1, "learning-rate-decay": 0.998, "weight-decay": 1e-3},
    does=lambda run: {"weighs": False},
    validate=validate,
    refuses={"privacy": "takes each step's gradient twice, and no private step covers that"},
)
