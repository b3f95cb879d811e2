"""Relaxed quantization as a local objective: clients train through noisy quantizers whose grids they learn and average.

Louizos, Reisser, Blankevoort, Gavves, Welling, "Relaxed Quantization for Discretized Neural Networks", arXiv 1810.01875. The
paper is not federated: here log alpha and log sigma of each quantizer travel beside the weights, and the server averages them
as they are, which is the geometric mean of the scales.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import log

import torch
from torch import Tensor, nn

from fedwarm.quantize import surgery
from fedwarm.quantize.learned import PREFIX, STEP, Learned
from fedwarm.quantize.relaxed import VARIANTS, Quantizer, Rule
from fedwarm.settings.fields import Group, SettingError, setting
from fedwarm.training.loop import Hook

State = dict[str, Tensor]
ALPHA, SIGMA = ".log_alpha", ".log_sigma"
APART, LARGEST = 3.0, 60.0


@dataclass(frozen=True)
class RelaxedQuantization(Group, prefix="relaxed-quantization", used=lambda r: r.trains and r["objective"] == "rq"):
    """Settings of relaxed quantization."""

    variant: str = setting(
        "rq_st", "rq_st: grid values, relaxed gradient; rq: relaxed values; sr: stochastic rounding", choices=VARIANTS
    )
    bits_weights: int = setting(4, "b of the weights, 1 to 16; 0: float", low=0, high=16)
    bits_activations: int = setting(4, "b of the layers' inputs, 1 to 16; 0: float", low=0, high=16)
    noise: str = setting("logistic", "noise whose bins are the law of a quantized number", choices=("logistic", "gaussian"))
    temperature: float = setting(0.0, "lambda of the concrete relaxation; 0: 1 for rq_st, 2/3 for rq", low=0.0)
    local_grid: bool = setting(True, "sample only the grid points near a number; off: time grows as 2^b")
    delta_w: float = setting(
        3.0, "half width of the local grid in units of sigma", low=0.0, when=lambda r: bool(r["relaxed-quantization.local-grid"])
    )
    alpha_init: str = setting(
        "mse", "first step of a grid; mse: least squared error of rounding; range: (max - min) / (2^b - 1)",
        choices=("mse", "range"),
    )  # fmt: skip
    sigma_init: float = setting(1 / 3, "first sigma in units of alpha", low=1e-3, high=1e3)
    floor: float = setting(1e-3, "least sigma in units of alpha", low=1e-3, high=1.0)
    lr_factor: float = setting(0.1, "learning rate of log alpha and log sigma in units of the weights'", low=0.0)
    layers: str = setting("all", "which layers are quantized", choices=("all", "skip_first_last"))

    def rule(self, bits: int) -> Rule | None:
        """How tensors of this width are quantized; None for 0."""
        temperature = self.temperature or (2 / 3 if self.variant == "rq" else 1.0)
        noise = (self.variant, self.noise, temperature, self.local_grid, self.delta_w)
        return Rule(bits, *noise, self.floor, self.alpha_init, self.sigma_init) if bits else None

    def on(self, draws: torch.Generator) -> Relaxed:
        """The quantizers that go on a model; `draws` is their noise."""
        return Relaxed(self.rule(self.bits_weights), self.rule(self.bits_activations), draws, self.layers == "skip_first_last")


# On a model


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

    def attach(self, model: nn.Module) -> nn.Module:
        """Put the quantizers on, in place; their scales are parameters of the model until they come off.

        Raises:
            SettingError: a weight has a parametrization already.
        """
        weights, inputs = dict[str, nn.Module](), dict[str, nn.Module]()
        if self.weights is not None:
            for name, layer in surgery.layers(model, self.skip_first_last).items():
                weight = surgery.master(layer)
                weights[name] = Quantizer(self.weights, self.draws, signed=True).to(weight.device).start(weight)
        if self.inputs is not None:
            place = surgery.device_of(model)
            for name in surgery.input_layers(model, self.skip_first_last):
                inputs[name] = Quantizer(self.inputs, self.draws).to(place)
        self._undo.append(surgery.attach(model, weights, inputs))
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
    """Copies of the learned logs, `quantizer/<tensor>.log_alpha` and `.log_sigma`, each (1,)."""
    found = [(PREFIX + name, q.logs) for name, q in quantizers(model).items()]
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


def at_width(state: Mapping[str, Tensor], weights: int, inputs: int) -> State:
    """The logs for grids of so many bits fewer (negative: more): alpha and sigma times 2^fewer, so that ranges stay."""
    return {n: v + log(2) * (inputs if n.endswith(("input" + ALPHA, "input" + SIGMA)) else weights) for n, v in state.items()}


def steps(settings: RelaxedQuantization, state: Mapping[str, Tensor]) -> Learned:
    """The learned grids of weights, and those of inputs if they have the same width, for `sweep` and `export`.

    The weights' grids have the whole range: they go with a scheme of `full_range`.
    """
    same = settings.bits_weights == settings.bits_activations
    kept = {n: v for n, v in state.items() if n.endswith(ALPHA) and (same or n.endswith("weight" + ALPHA))}
    return Learned(settings.bits_weights, {n.removesuffix(ALPHA) + STEP: v for n, v in kept.items()})


# The objective


class RelaxedObjective(Hook):
    """Trains through quantizers; stands before hooks that look at the parameters, since it changes which there are.

    Args:
        settings: widths, variant and the rest.
        generator: draws the noise and nothing else; keyed by run, round and client.
        start: the server's logs; empty in the first round: from the weights, and from the first batch for inputs.

    Attributes:
        state: the learned logs after `finish`, each within 3 of the server's; empty where nothing is quantized.
    """

    def __init__(
        self, settings: RelaxedQuantization, generator: torch.Generator, start: Mapping[str, Tensor] | None = None
    ) -> None:
        self.settings, self.start = settings, dict(start or {})
        self.relaxed = settings.on(generator)
        self.state: State = {}

    def prepare(self, model: nn.Module) -> None:
        self.relaxed.attach(model)
        if self.start:
            load_quantizer_state(model, self.start)

    def gradient(self, model: nn.Module) -> None:
        for q in quantizers(model).values():
            if q.moved.grad is not None:
                q.moved.grad.clamp_(-1, 1).mul_(self.settings.lr_factor)

    def finish(self, model: nn.Module) -> None:
        self.state = near(quantizer_state(model), self.start)
        self.relaxed.detach()


@contextmanager
def quantized(model: nn.Module, settings: RelaxedQuantization, state: Mapping[str, Tensor]) -> Iterator[nn.Module]:
    """The model in evaluation mode as a device would run it, on these grids, or on fresh ones; afterwards it is as it was."""
    relaxed, training = settings.on(torch.Generator()), model.training
    relaxed.attach(model)
    try:
        if state:
            load_quantizer_state(model, state)
        yield model.eval()
    finally:
        relaxed.detach()
        model.train(training)
