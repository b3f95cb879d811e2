"""Quantization-aware training at one width, straight-through or with learned steps (`quantize.learned`), in the federated form of
Gupta, Fournarakis, Reisser, Louizos, Nagel, "Quantization Robust Federated Learning for Efficient Inference on Heterogeneous
Devices", arXiv 2206.10844, TMLR 2023, whose public text states no values: they are ours.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fedwarm.objectives import Get, Layered, Round
from fedwarm.quantize.hooks import Surgical
from fedwarm.quantize.learned import LearnedInput, LearnedStep, LearnedWeight, input_name, weight_name
from fedwarm.quantize.settings import LEARNED, SCHEME, START, QuantizationRobust, validated, widths_in
from fedwarm.quantize.surgery import device_of, layers, master
from fedwarm.settings.config import Config
from fedwarm.training.loop import Hook

OWN = ("bits", "quantize-activations")
USES = (*SCHEME, START, *(f"quantization-robust.{name}" for name in OWN))


class Qat(Surgical):
    """F(Q_b(w)) at one width b; straight-through, or with learned steps, which `state` holds after training.

    A layer whose input never comes by itself, as in attention or where nothing uses it, has no step of it there.

    Args:
        start: log steps to begin with, as `state` names them; from the weights and the first batch if empty.
    """

    def __init__(self, settings: QuantizationRobust, draws: torch.Generator, start: Mapping[str, Tensor] | None = None) -> None:
        super().__init__(settings, draws, (settings.bits,))
        self.start = dict(start or {})
        self._steps: dict[str, LearnedStep] = {}

    def weights(self, model: nn.Module) -> Mapping[str, nn.Module]:
        if self.settings.range != LEARNED:
            return super().weights(model)
        bits, scheme = self.settings.bits, self.settings.scheme
        found = layers(model, scheme.skip_first_last)
        made = {n: LearnedWeight(master(layer), bits, scheme, self.start.get(weight_name(n))) for n, layer in found.items()}
        self._steps |= {weight_name(name): step for name, step in made.items()}
        return made

    def inputs(self, model: nn.Module) -> Mapping[str, nn.Module]:
        found = super().inputs(model)
        if self.settings.range != LEARNED:
            return found
        made = {name: LearnedInput(self.settings.bits, device_of(model), self.start.get(input_name(name))) for name in found}
        self._steps |= {input_name(name): step for name, step in made.items()}
        return made

    def finish(self, model: nn.Module) -> None:
        super().finish(model)
        self.state = {name: step.log_step.cpu() for name, step in self._steps.items() if step.start is not None}


class QatObjective(Layered):
    """Training through a quantizer at one width, whose steps may be learned."""

    def begins(self, config: Config) -> int:
        return config.of(QuantizationRobust).start_round

    def local_hooks(self, config: Config, now: Round) -> list[Hook]:
        return [Qat(validated(config.of(QuantizationRobust)), now.draws, now.start)]

    def learns(self, config: Config) -> bool:
        return config.of(QuantizationRobust).range == LEARNED

    def seen(self, get: Get, activations: bool) -> frozenset[int]:
        rounded = not activations or get("quantization-robust.quantize-activations")
        return widths_in(get("quantization-robust.bits")) if rounded else frozenset()


COMPONENT = QatObjective(
    "rounds weights to one bit-width, with fixed or learned steps",
    settings=QuantizationRobust,
    uses=USES,
    delays=(START,),
    layers="Linear and Conv",
)
