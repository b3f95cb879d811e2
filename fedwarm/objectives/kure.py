"""Kurtosis regularization: Shkolnik et al., "Robust Quantization: One Model to Rule Them All", arXiv 2002.07686, in the federated
form of Gupta et al., "Quantization Robust Federated Learning for Efficient Inference on Heterogeneous Devices", arXiv 2206.10844.

Weights whose kurtosis is that of the uniform law have no outliers, so that any grid fits them. The second paper's public text
states no values; all of them are ours.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fedwarm.objectives import Layered, Round
from fedwarm.quantize.settings import QuantizationRobust, validated
from fedwarm.quantize.surgery import layers, master
from fedwarm.settings.config import Config
from fedwarm.training.loop import Batch, Hook

LEAST_VARIANCE = 1e-12
FEWEST_WEIGHTS = 64
DELAYS = ("quantization-robust.start-round", "quantization-robust.kure-warmup")
USES = (*DELAYS, *(f"quantization-robust.{name}" for name in ("skip-first-last", "kure-weight", "kure-target")))


def kurtosis(x: Tensor) -> Tensor:
    """m4 / m2^2 of all numbers of x, a scalar; 0 where they are all equal."""
    centred = x - x.mean()
    squares = centred.square()
    return squares.square().mean() / squares.mean().clamp(min=LEAST_VARIANCE).square()


def kurtoses(model: nn.Module, skip_first_last: bool = False) -> dict[str, Tensor]:
    """The kurtosis of the weights of each layer that has at least 64 of them, by the layer's name."""
    weights = {name: master(layer) for name, layer in layers(model, skip_first_last).items()}
    return {name: kurtosis(weight) for name, weight in weights.items() if weight.numel() >= FEWEST_WEIGHTS}


class Kure(Hook):
    """Adds lambda times the mean over layers of (kurtosis - target)^2."""

    uses = "weights"

    def __init__(self, settings: QuantizationRobust) -> None:
        self.settings = settings

    def loss(self, batch: Batch, loss: Tensor) -> Tensor:
        if not self.settings.kure_weight:
            return loss
        found = kurtoses(batch.model, self.settings.skip_first_last)
        if not found:
            return loss
        return loss + self.settings.kure_weight * (torch.stack(list(found.values())) - self.settings.kure_target).square().mean()


class KureObjective(Layered):
    """The task's loss and the penalty, from `start-round` and after `kure-warmup` rounds on."""

    def begins(self, config: Config) -> int:
        settings = config.of(QuantizationRobust)
        return max(settings.start_round, settings.kure_warmup + 1)

    def local_hooks(self, config: Config, now: Round) -> list[Hook]:
        return [Kure(validated(config.of(QuantizationRobust), "kure"))]


COMPONENT = KureObjective(
    "penalty that makes each layer's weights uniformly distributed, by their kurtosis (Shkolnik et al., 2020)",
    settings=QuantizationRobust,
    uses=USES,
    delays=DELAYS,
    layers="Linear and Conv",
)
