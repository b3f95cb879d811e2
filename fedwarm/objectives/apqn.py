"""Additive pseudo-quantization noise: Defossez, Adi, Synnaeve, "Differentiable Model Compression via Pseudo Quantization Noise",
arXiv 2104.09987, in the federated form of Gupta et al., arXiv 2206.10844, whose public text states no values: they are ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import sqrt
from typing import Any

import torch
from torch import Tensor, nn

from fedwarm.objectives import Get, Layered, Round
from fedwarm.quantize.hooks import Surgical
from fedwarm.quantize.settings import SCHEME, START, QuantizationRobust, validated, widths_in
from fedwarm.quantize.surgery import Noisy, layers, master
from fedwarm.settings.config import Config
from fedwarm.training.loop import Hook


def unit_noise(shape: torch.Size, law: str, draws: torch.Generator) -> Tensor:
    """Noise in units of a step, of mean 0 and variance 1/12: uniform and strictly inside +-1/2, or Gaussian."""
    if law == "gaussian":
        return torch.randn(shape, generator=draws) / sqrt(12)
    return (torch.rand(shape, generator=draws) - 0.5) * (1 - 2**-23)


class Apqn(Surgical):
    """F(w + Delta_b u), fresh noise u in each step; neither rounding nor straight-through, and inputs stay float."""

    def __init__(self, settings: QuantizationRobust, draws: torch.Generator) -> None:
        super().__init__(settings, draws, (settings.bits,) if settings.apqn_width == "fixed" else settings.widths)
        self._noisy: list[tuple[Noisy, torch.Size]] = []

    @property
    def idle(self) -> bool:
        return super().idle or not self.settings.noise_scale

    def weights(self, model: nn.Module) -> Mapping[str, nn.Module]:
        found = layers(model, self.settings.skip_first_last)
        made = {name: Noisy(self.width, self.settings.scheme) for name in found}
        self._noisy = [(noisy, master(found[name]).shape) for name, noisy in made.items()]
        return made

    def inputs(self, model: nn.Module) -> Mapping[str, nn.Module]:
        return {}

    def draw(self) -> None:
        super().draw()
        for noisy, shape in self._noisy:
            noisy.noise = unit_noise(shape, self.settings.noise, self.draws) * self.settings.noise_scale


class ApqnObjective(Layered):
    """Training under noise as large as a rounding error."""

    def begins(self, config: Config) -> int:
        return config.of(QuantizationRobust).start_round

    def local_hooks(self, config: Config, now: Round) -> list[Hook]:
        return [Apqn(validated(config.of(QuantizationRobust), "apqn"), now.draws)]

    def seen(self, get: Get, activations: bool) -> frozenset[int]:
        return frozenset() if activations else widths_in(get(_width(get)))


def _width(get: Get) -> str:
    """The setting that holds the widths of the noise."""
    return f"quantization-robust.{'bits' if get('quantization-robust.apqn-width') == 'fixed' else 'train-bits'}"


def uses(run: Any) -> tuple[str, ...]:
    """What a run takes of the shared settings."""
    own = tuple(f"quantization-robust.{name}" for name in ("apqn-width", "noise", "noise-scale"))
    return (*SCHEME, START, *own, _width(run.__getitem__))


COMPONENT = ApqnObjective(
    "adds noise of the size of rounding errors to the weights (Defossez et al., 2021)",
    settings=QuantizationRobust,
    uses=uses,
    delays=(START,),
    layers="Linear and Conv",
)
