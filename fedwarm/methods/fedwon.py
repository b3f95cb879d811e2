"""FedWon: Zhuang, Lyu, "FedWon: Triumphing Multi-domain Federated Learning Without Normalization", ICLR 2024, arXiv 2306.05879.

Clients of unlike domains disagree on the statistics of normalised activations, so no layer normalises: convolutions have
standardised weights instead, and FedAvg averages the plain ones. Gradients may be clipped by the weights' norms, unit by unit
(Brock, De, Smith, Simonyan, arXiv 2102.06171, eq. 3).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedwarm.methods import Method
from fedwarm.settings.fields import Group, setting
from fedwarm.training.loop import Hook

LEAST = 1e-3


@dataclass(frozen=True)
class FedWon(Group, prefix="fedwon"):
    """Settings of FedWon."""

    clip: float = setting(0.0, "longest gradient of a unit, as a share of the norm of its weights; 0: none is clipped", low=0.0)


def unit_norms(tensor: Tensor) -> Tensor:
    """L2 norms over all but the first dimension, kept as dimensions of 1; of a vector as a whole."""
    norms: Tensor = torch.linalg.vector_norm(tensor, dim=tuple(range(min(1, tensor.dim() - 1), tensor.dim())), keepdim=True)
    return norms


class AdaptiveClip(Hook):
    """G_i <- G_i lambda max(||W_i||, 1e-3) / ||G_i|| for each output unit i where ||G_i|| is longer than that."""

    uses = "weights"

    def __init__(self, settings: FedWon) -> None:
        self.clip = settings.clip

    @torch.no_grad()
    def gradient(self, model: nn.Module) -> None:
        for p in model.parameters() if self.clip else ():
            if p.grad is not None:
                most, length = self.clip * unit_norms(p).clamp(min=LEAST), unit_norms(p.grad)
                p.grad.mul_(torch.where(length > most, most / length, torch.ones_like(length)))


COMPONENT = Method(
    "FedWon",
    "FedAvg without normalisation, on standardised weights, for clients of unlike domains (Zhuang and Lyu, 2024)",
    FedWon,
    hooks=(AdaptiveClip,),
    preset={"model.norm": "standardised-weights"},
)
