"""Relaxed quantizers on a model's layers, and their learned logarithms as they travel.

Louizos, Reisser, Blankevoort, Gavves, Welling, "Relaxed Quantization for Discretized Neural Networks", arXiv 1810.01875.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from fedwarm.quantize import surgery
from fedwarm.quantize.learned import PREFIX, STEP, input_name
from fedwarm.quantize.relaxed import Quantizer, Rule
from fedwarm.settings.fields import SettingError

State = dict[str, Tensor]
ALPHA, SIGMA = ".log_alpha", ".log_sigma"
APART, LARGEST = 3.0, 60.0


@dataclass
class Relaxed:
    """Quantizers on the convolutions and linear layers of a model, put on and taken off without editing it.

    Each layer's weight is quantized, and its input, but for the first one's: pictures come in 8 bits as they are.

    Attributes:
        weights, inputs: the rules; None: left in float.
        draws: the noise of all quantizers.
        skip_first_last: leave the first and the last layer in float.
    """

    weights: Rule | None
    inputs: Rule | None
    draws: torch.Generator
    skip_first_last: bool = False
    _undo: list[Callable[[], None]] = field(default_factory=list, init=False)

    def attach(self, model: nn.Module, state: Mapping[str, Tensor] | None = None) -> nn.Module:
        """Put the quantizers on, in place; their scales are parameters of the model until they come off.

        Args:
            state: logs to begin with, if there are any; an input of which it has none stays float.

        Raises:
            SettingError: a weight has a parametrization already, or the state does not fit.
        """
        weights, inputs = dict[str, nn.Module](), dict[str, nn.Module]()
        if self.weights is not None:
            for name, layer in surgery.layers(model, self.skip_first_last).items():
                weight = surgery.master(layer)
                weights[name] = Quantizer(self.weights, self.draws, signed=True).to(weight.device).start(weight)
        if self.inputs is not None:
            place = surgery.device_of(model)
            for name in surgery.input_layers(model, self.skip_first_last):
                if not state or input_name(name).removesuffix(STEP) + ALPHA in state:
                    inputs[name] = Quantizer(self.inputs, self.draws).to(place)
        self._undo.append(surgery.attach(model, weights, inputs))
        if state:
            load_quantizer_state(model, state)
        return model

    def detach(self) -> None:
        """Take the quantizers off: names, order and tensors of the model are as they were."""
        while self._undo:
            self._undo.pop()()


def quantizers(model: nn.Module) -> dict[str, Quantizer]:
    """The quantizers on a model, by `<layer>.weight` and `<layer>.input`."""
    found = {}
    for name, layer in surgery.layers(model).items():
        for part, kind in ((getattr(layer, "parametrizations", {}), "weight"), (getattr(layer, surgery.INPUT, None), "input")):
            part = part["weight"][0] if kind == "weight" and "weight" in part else part  # type: ignore[index,operator]
            if isinstance(part, Quantizer):
                found[f"{name}.{kind}".lstrip(".")] = part
    return found


# What travels


def quantizer_state(model: nn.Module) -> State:
    """Copies of the learned logs, `quantizer/<tensor>.log_alpha` and `.log_sigma`, each (1,), of what was seen."""
    found = [(PREFIX + name, q.logs) for name, q in quantizers(model).items() if q.first is not None]
    return {name + end: logs[i : i + 1].clone() for name, logs in found for i, end in enumerate((ALPHA, SIGMA))}


def load_quantizer_state(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Give a model's quantizers these logs; names that do not begin with `quantizer/` are passed over.

    Raises:
        SettingError: names are missing or extra, or a value is not one number within 60 of 0.
    """
    given = {name: value for name, value in state.items() if name.startswith(PREFIX)}
    found = quantizers(model)
    wanted = {PREFIX + name + end for name in found for end in (ALPHA, SIGMA)}
    if given.keys() != wanted:
        raise SettingError(f"quantizers differ from the model's by {sorted(given.keys() ^ wanted)[:3]}; use the same settings")
    for name, value in given.items():
        if value.numel() != 1 or not abs(value.item()) <= LARGEST:
            raise SettingError(f"{name} = {value.tolist()!r:.60} must be one number from -{LARGEST:g} to {LARGEST:g}")
    for name, q in found.items():
        q.load(given[PREFIX + name + ALPHA].item(), given[PREFIX + name + SIGMA].item())


def near(state: Mapping[str, Tensor], server: Mapping[str, Tensor], apart: float = APART) -> State:
    """A client's logs, each at most `apart` from the server's where it has one: a dead layer does not drag the mean."""
    return {n: v.clamp(server[n] - apart, server[n] + apart) if n in server else v for n, v in state.items()}
