"""FedWon: Zhuang, Lyu, "FedWon: Triumphing Multi-domain Federated Learning Without Normalization", ICLR 2024, arXiv 2306.05879.

Clients of unlike domains disagree on the statistics of normalised activations, so no layer normalises: convolutions have
standardised weights instead, and FedAvg averages the plain ones. Gradients may be clipped by the weights' norms, unit by unit
(Brock, De, Smith, Simonyan, arXiv 2102.06171, eq. 3), in convolutions alone: the head is left out there, too, and of a bias that
begins at 0 next to nothing would be left.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fedwarm.methods import Method
from fedwarm.norms import mixing
from fedwarm.norms.standardised_weights import StandardisedConv2d, standardised
from fedwarm.quantize.surgery import master
from fedwarm.settings.config import Config
from fedwarm.settings.fields import Group, SettingError, setting
from fedwarm.training.loop import Hook
from fedwarm.training.sizes import layers_of

LEAST = 1e-3


@dataclass(frozen=True)
class FedWon(Group, prefix="fedwon"):
    """Settings of FedWon."""

    clip: float = setting(
        0.0,
        "limit on the gradient of a convolution's output channel, relative to the norm of its weights; 0: no clipping",
        low=0.0,
    )
    average: str = setting(
        "raw",
        "weights of convolutions that clients send; raw: as they are trained; used: standardised, so that every client's "
        "have the same scale",
        choices=("raw", "used"),
    )  # fmt: skip


def unit_norms(tensor: Tensor) -> Tensor:
    """L2 norms over all but the first dimension, kept as dimensions of 1."""
    norms: Tensor = torch.linalg.vector_norm(tensor, dim=tuple(range(1, tensor.dim())), keepdim=True)
    return norms


def kernels(model: nn.Module) -> Iterator[Tensor]:
    """The weights of the convolutions that are trained, with or without a quantizer on them."""
    return (master(part) for part in model.modules() if isinstance(part, nn.Conv2d))


class AdaptiveClip(Hook):
    """G_i <- G_i lambda max(||W_i||, 1e-3) / ||G_i|| for each output unit i where ||G_i|| is longer than that."""

    uses = "weights"

    def __init__(self, settings: FedWon) -> None:
        self.clip = settings.clip

    @torch.no_grad()
    def gradient(self, model: nn.Module) -> None:
        for p in kernels(model) if self.clip else ():
            if p.grad is not None:
                most, length = self.clip * unit_norms(p).clamp(min=LEAST), unit_norms(p.grad)
                p.grad.mul_(torch.where(length > most, most / length, torch.ones_like(length)))


class Used(Hook):
    """After the last step, V <- W(V) where that is asked for: the classifier stays the same, as W(W(V)) = W(V)."""

    uses = "weights"

    def __init__(self, settings: FedWon) -> None:
        self.average = settings.average

    @torch.no_grad()
    def finish(self, model: nn.Module) -> None:
        for part in model.modules() if self.average == "used" else ():
            if isinstance(part, StandardisedConv2d):
                part.weight.copy_(standardised(part.weight))


def check(config: Config, known: Any) -> None:
    """Refuse batch normalisation, without which the method is to do.

    Raises:
        SettingError: the classifier has it.
    """
    layers = layers_of(config, known)
    for name, _ in () if layers is None else mixing(layers):
        raise SettingError(
            f"layer {name!r} of the classifier is batch normalisation, and method {config.run.method!r} trains without; leave "
            "model.norm at 'standardised-weights'"
        )


COMPONENT = Method(
    "FedWon",
    "FedAvg without normalisation, on standardised weights, for clients of unlike domains (Zhuang and Lyu, 2024)",
    FedWon,
    hooks=(AdaptiveClip, Used),
    preset={"model.norm": "standardised-weights"},
    check=check,
    layers="Conv2d, whose gradients are clipped; others train as they are",
)
