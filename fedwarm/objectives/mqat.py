"""Multi-bit quantization-aware training: Gupta, Fournarakis, Reisser, Louizos, Nagel, "Quantization Robust Federated Learning for
Efficient Inference on Heterogeneous Devices", arXiv 2206.10844, TMLR 2023, whose public text states no values: they are ours.
"""

from __future__ import annotations

import torch
from torch import nn

from fedwarm.objectives import Get, Layered, Round
from fedwarm.quantize.hooks import Surgical
from fedwarm.quantize.settings import SCHEME, START, QuantizationRobust, validated, widths_in
from fedwarm.settings.config import Config
from fedwarm.training.loop import Hook

OWN = ("train-bits", "granularity", "quantize-activations")
USES = (*SCHEME, START, *(f"quantization-robust.{name}" for name in OWN))


class Mqat(Surgical):
    """F(Q_b(w)) with a width b drawn for each step, or once a round; straight-through."""

    def __init__(self, settings: QuantizationRobust, draws: torch.Generator) -> None:
        super().__init__(settings, draws, settings.widths)

    def gradient(self, model: nn.Module) -> None:
        if self.settings.granularity == "batch":
            super().gradient(model)


class MqatObjective(Layered):
    """Training through a quantizer whose width is drawn."""

    def begins(self, config: Config) -> int:
        return config.of(QuantizationRobust).start_round

    def local_hooks(self, config: Config, now: Round) -> list[Hook]:
        return [Mqat(validated(config.of(QuantizationRobust), "mqat"), now.draws)]

    def seen(self, get: Get, activations: bool) -> frozenset[int]:
        rounded = not activations or get("quantization-robust.quantize-activations")
        return widths_in(get("quantization-robust.train-bits")) if rounded else frozenset()


COMPONENT = MqatObjective(
    "rounds weights to a bit-width drawn for each batch or round (Gupta et al., 2022)",
    settings=QuantizationRobust,
    uses=USES,
    delays=(START,),
    layers="Linear and Conv",
)
