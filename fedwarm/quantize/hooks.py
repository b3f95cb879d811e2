"""Quantization-robust training: Gupta, Fournarakis, Reisser, Louizos, Nagel, "Quantization Robust Federated Learning for
Efficient Inference on Heterogeneous Devices", arXiv 2206.10844, TMLR 2023.

One global model that can be quantized to many widths. Clients train float weights through a regularizer (`kure`, after Shkolnik
et al., "Robust Quantization: One Model to Rule Them All", arXiv 2002.07686), additive noise (`apqn`, after Defossez, Adi,
Synnaeve, "Differentiable Model Compression via Pseudo Quantization Noise", arXiv 2104.09987), a quantizer at one width (`qat`) or
at one that is drawn for every batch or round (`mqat`). What is sent is FedAvg's. The paper's public text states no values; all of
them are ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor, nn

from fedwarm.quantize.learned import LearnedInput, LearnedStep, LearnedWeight, input_name, weight_name
from fedwarm.quantize.surgery import Noisy, Rounded, RoundedInput, Width, attach, device_of, input_layers, layers, master
from fedwarm.quantize.uniform import FLOAT_BITS, RULES, Scheme, checked_bits
from fedwarm.settings.fields import CHOSEN, Group, SettingError, setting
from fedwarm.training.loop import Batch, Hook

OBJECTIVES = ("kure", "apqn", "qat", "mqat")
LEAST_VARIANCE = 1e-12
FEWEST_WEIGHTS = 64


@dataclass(frozen=True)
class QuantizationRobust(Group, prefix="quantization-robust"):
    """Settings of quantization-robust training."""

    variant: str = setting(
        "mqat",
        "what clients train with; a penalty on kurtosis, noise, one width, a drawn width, relaxed quantization",
        choices=(*OBJECTIVES, "rq"),
        when=lambda r: r.method == "quantization_robust" and r["objective"] == r["quantization-robust.variant"],
    )
    train_bits: str = setting("2,4,6,8", "widths that mqat and apqn draw from; 32: float", when=CHOSEN)
    bits: int = setting(4, "the width of qat, and of apqn where it is fixed; 32: float", low=2, high=FLOAT_BITS, when=CHOSEN)
    granularity: str = setting(
        "batch", "when mqat draws a width: for each batch, or once a round", choices=("batch", "round"), when=CHOSEN
    )
    kure_weight: float = setting(0.1, "lambda, weight of the kurtosis penalty; 0 is FedAvg", low=0.0, when=CHOSEN)
    kure_target: float = setting(1.8, "kurtosis that weights are drawn to; 1.8 is the uniform law's", low=1.0, when=CHOSEN)
    kure_warmup: int = setting(1, "rounds before the kurtosis penalty sets in", low=0, when=CHOSEN)
    apqn_width: str = setting(
        "sampled", "the noise's width: drawn for each batch, or `bits`", choices=("sampled", "fixed"), when=CHOSEN
    )
    noise: str = setting(
        "uniform", "law of apqn's noise, each of variance step^2 / 12", choices=("uniform", "gaussian"), when=CHOSEN
    )
    noise_scale: float = setting(1.0, "apqn's noise relative to that; 0 is FedAvg", low=0.0, when=CHOSEN)
    range: str = setting(
        "mse",
        "where a grid ends: least squared error, least and largest value, or a learned step (qat alone)",
        choices=(*RULES, "learned"),
        when=CHOSEN,
    )
    per_channel: bool = setting(False, "a step for each output channel of a weight", when=CHOSEN)
    full_range: bool = setting(False, "weights use -2^(b-1) too", when=CHOSEN)
    skip_first_last: bool = setting(False, "the first and the last layer stay float", when=CHOSEN)
    quantize_activations: bool = setting(False, "qat and mqat quantize the inputs of layers, too", when=CHOSEN)
    start_round: int = setting(1, "first round with the objective; before it clients train plainly", low=1, when=CHOSEN)
    clip: float = setting(0.0, "most Euclidean norm of a step's gradient; 0: any", low=0.0, when=lambda r: r.trains)

    @property
    def scheme(self) -> Scheme:
        """How the model is quantized, in training and afterwards."""
        rule = "mse" if self.range == "learned" else self.range
        return Scheme(rule, self.per_channel, self.full_range, self.skip_first_last)

    @property
    def widths(self) -> tuple[int, ...]:
        """`train_bits` as numbers.

        Raises:
            SettingError: it is no list of widths.
        """
        return widths_of(self.train_bits, "quantization-robust.train-bits")


def widths_of(text: str, key: str) -> tuple[int, ...]:
    """Widths out of a setting such as `2,4,6,8`.

    Raises:
        SettingError: it is no list of widths; the message names the key.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() for part in parts):
        raise SettingError(f"{key} = {text!r} is no list of widths; write them like '2,4,6,8'")
    return tuple(checked_bits(int(part), key) for part in parts)


def validated(settings: QuantizationRobust, objective: str) -> QuantizationRobust:
    """The settings, if they go together with an objective.

    Raises:
        SettingError: they do not, or a width is none.
    """
    checked_bits(settings.bits, "quantization-robust.bits")
    if settings.range == "learned" and objective in ("kure", "apqn", "mqat", "rq"):
        raise SettingError(f"quantization-robust.range = 'learned' is for qat, not for {objective}; use mse or minmax")
    assert settings.widths
    return settings


# Formulas


def kurtosis(x: Tensor) -> Tensor:
    """m4 / m2^2 of all numbers of x, a scalar; 0 where they are all equal."""
    centred = x - x.mean()
    squares = centred.square()
    return squares.square().mean() / squares.mean().clamp(min=LEAST_VARIANCE).square()


def kurtoses(model: nn.Module, skip_first_last: bool = False) -> dict[str, Tensor]:
    """The kurtosis of the weights of each layer that has at least 64 of them, by the layer's name."""
    weights = {name: master(layer) for name, layer in layers(model, skip_first_last).items()}
    return {name: kurtosis(weight) for name, weight in weights.items() if weight.numel() >= FEWEST_WEIGHTS}


def unit_noise(shape: torch.Size, law: str, draws: torch.Generator) -> Tensor:
    """Noise in units of a step, of mean 0 and variance 1/12: uniform and strictly inside +-1/2, or Gaussian."""
    if law == "gaussian":
        return torch.randn(shape, generator=draws) / sqrt(12)
    return (torch.rand(shape, generator=draws) - 0.5) * (1 - 2**-23)


# Hooks


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


class Mqat(Surgical):
    """F(Q_b(w)) with a width b drawn for each step, or once a round; straight-through."""

    def __init__(self, settings: QuantizationRobust, draws: torch.Generator) -> None:
        super().__init__(settings, draws, settings.widths)

    def gradient(self, model: nn.Module) -> None:
        if self.settings.granularity == "batch":
            super().gradient(model)


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


class Qat(Surgical):
    """F(Q_b(w)) at one width b; straight-through, or with learned steps, which `state` holds after training.

    Args:
        start: log steps to begin with, as `state` names them; from the weights and the first batch if empty.
    """

    def __init__(self, settings: QuantizationRobust, draws: torch.Generator, start: Mapping[str, Tensor] | None = None) -> None:
        super().__init__(settings, draws, (settings.bits,))
        self.start = dict(start or {})
        self._steps: dict[str, LearnedStep] = {}

    def weights(self, model: nn.Module) -> Mapping[str, nn.Module]:
        if self.settings.range != "learned":
            return super().weights(model)
        bits, scheme = self.settings.bits, self.settings.scheme
        found = layers(model, scheme.skip_first_last)
        made = {n: LearnedWeight(master(layer), bits, scheme, self.start.get(weight_name(n))) for n, layer in found.items()}
        self._steps |= {weight_name(name): step for name, step in made.items()}
        return made

    def inputs(self, model: nn.Module) -> Mapping[str, nn.Module]:
        found = super().inputs(model)
        if self.settings.range != "learned":
            return found
        made = {name: LearnedInput(self.settings.bits, device_of(model), self.start.get(input_name(name))) for name in found}
        self._steps |= {input_name(name): step for name, step in made.items()}
        return made

    def finish(self, model: nn.Module) -> None:
        super().finish(model)
        self.state = {name: step.log_step.cpu() for name, step in self._steps.items()}


class ClipGradient(Hook):
    """Scales a step's gradient down to a norm."""

    uses = "weights"

    def __init__(self, most: float) -> None:
        self.most = most

    def gradient(self, model: nn.Module) -> None:
        torch.nn.utils.clip_grad_norm_(model.parameters(), self.most)
