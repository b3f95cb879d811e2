"""Hooks on training that objectives share: quantizers on a model's layers at the width of a step, and clipped gradients."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from fedwarm.quantize.settings import QuantizationRobust
from fedwarm.quantize.surgery import Rounded, RoundedInput, Width, attach, input_layers, layers
from fedwarm.quantize.uniform import FLOAT_BITS
from fedwarm.training.loop import Hook


class Surgical(Hook):
    """Trains through quantizers that look up the width of the step; it stands before hooks that list a model's parameters.

    Args:
        settings: how tensors are quantized.
        draws: width and noise are drawn from it and nothing else; keyed by run, round and client.
        widths: drawn from evenly; where all are 32, nothing is put on the model.
    """

    uses: str  # type: ignore[misc]

    def __init__(self, settings: QuantizationRobust, draws: torch.Generator, widths: tuple[int, ...]) -> None:
        self.settings, self.draws, self.widths = settings, draws, widths
        self.uses = "batch" if settings.quantize_activations else "weights"
        self.width = Width()
        self.state: dict[str, Tensor] = {}
        self._detach: Callable[[], None] | None = None

    @property
    def idle(self) -> bool:
        """Whether this is plain training."""
        return set(self.widths) == {FLOAT_BITS}

    def prepare(self, model: nn.Module) -> None:
        if not self.idle:
            self._detach = attach(model, self.weights(model), self.inputs(model))
            self.draw()

    def gradient(self, model: nn.Module) -> None:
        if not self.idle:
            self.draw()

    def finish(self, model: nn.Module) -> None:
        if self._detach is not None:
            self._detach()

    def draw(self) -> None:
        """Settle what the next step is taken with."""
        self.width.bits = self.widths[int(torch.randint(len(self.widths), (), generator=self.draws))]

    def weights(self, model: nn.Module) -> Mapping[str, nn.Module]:
        """The quantizers of weights, by layer."""
        settings = self.settings
        return {name: Rounded(self.width, settings.scheme) for name in layers(model, settings.skip_first_last)}

    def inputs(self, model: nn.Module) -> Mapping[str, nn.Module]:
        """The quantizers of inputs, by layer."""
        scheme = self.settings.scheme
        found = input_layers(model, scheme.skip_first_last) if self.settings.quantize_activations else {}
        return {name: RoundedInput(self.width, scheme) for name in found}


class ClipGradient(Hook):
    """Scales a step's gradient down to a norm."""

    uses = "weights"

    def __init__(self, most: float) -> None:
        self.most = most

    def gradient(self, model: nn.Module) -> None:
        torch.nn.utils.clip_grad_norm_(model.parameters(), self.most)
