"""How models are quantized, in training and afterwards: the settings that objectives, measuring and export share."""

from __future__ import annotations

import re
from dataclasses import dataclass

from fedwarm.quantize.uniform import FLOAT_BITS, RULES, Scheme, checked_bits
from fedwarm.settings.fields import CHOSEN, Group, SettingError, setting
from fedwarm.settings.kinds import OBJECTIVES

LEARNED = "learned"
START = "quantization-robust.start-round"
SCHEME = tuple(f"quantization-robust.{name}" for name in ("range", "per-channel", "full-range", "skip-first-last"))


@dataclass(frozen=True)
class QuantizationRobust(Group, prefix="quantization-robust"):
    """Settings of quantization-robust training."""

    variant: str = setting(
        "mqat",
        "objective of method quantization_robust where `objective` is not set; mqat: rounds to a random bit-width; qat: "
        "rounds to one; apqn: adds noise; kure: penalises kurtosis; rq: relaxed quantization",
        choices=tuple(name for name in OBJECTIVES.names() if name != OBJECTIVES.first),
        when=CHOSEN,
    )
    train_bits: str = setting("2,4,6,8", "bit-widths that mqat and apqn draw from; 32: float", when=CHOSEN)
    bits: int = setting(4, "bit-width of qat, and of apqn with a fixed width; 32: float", low=2, high=FLOAT_BITS, when=CHOSEN)
    granularity: str = setting(
        "batch",
        "how often mqat draws a bit-width; batch: for each batch; round: once a round",
        choices=("batch", "round"),
        when=CHOSEN,
    )
    kure_weight: float = setting(0.1, "lambda, weight of the kurtosis penalty; 0: FedAvg", low=0.0, when=CHOSEN)
    kure_target: float = setting(1.8, "target kurtosis of the weights; 1.8: a uniform distribution's", low=1.0, when=CHOSEN)
    kure_warmup: int = setting(1, "first rounds without the kurtosis penalty", low=0, when=CHOSEN)
    apqn_width: str = setting(
        "sampled",
        "bit-width of apqn's noise; sampled: drawn for each batch; fixed: quantization-robust.bits",
        choices=("sampled", "fixed"),
        when=CHOSEN,
    )
    noise: str = setting(
        "uniform", "distribution of apqn's noise; both have variance step^2 / 12", choices=("uniform", "gaussian"), when=CHOSEN
    )
    noise_scale: float = setting(1.0, "scale of apqn's noise; 0: FedAvg", low=0.0, when=CHOSEN)
    range: str = setting(
        "mse",
        "range of the quantization grid; mse: least squared error; minmax: smallest to largest value; learned: a "
        "trained step (qat alone)",
        choices=(*RULES, LEARNED),
        when=CHOSEN,
    )
    per_channel: bool = setting(
        False, "true: a separate quantization step for each output channel; false: one step for each layer", when=CHOSEN
    )
    full_range: bool = setting(
        False, "true: the grid of weights has 2^b values, with -2^(b-1); false: 2^b - 1, symmetric", when=CHOSEN
    )
    skip_first_last: bool = setting(False, "keep the first and the last layer in float", when=CHOSEN)
    quantize_activations: bool = setting(
        False, "true: qat and mqat quantize the inputs of layers, too; false: weights alone", when=CHOSEN
    )
    start_round: int = setting(1, "first round with the objective; earlier rounds train without it", low=1, when=CHOSEN)
    clip: float = setting(
        0.0, "L2 norm to which each step's gradient is clipped; 0: no clipping", low=0.0, when=lambda r: r.trains
    )

    @property
    def scheme(self) -> Scheme:
        """How the model is quantized, in training and afterwards."""
        rule = "mse" if self.range == LEARNED else self.range
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
        raise SettingError(f"{key} = {text!r} is not a list of bit-widths; write them like '2,4,6,8'")
    return tuple(checked_bits(int(part), key) for part in parts)


def widths_in(value: object) -> frozenset[int]:
    """The widths in a setting of a run that was recorded, where nothing is refused any more."""
    return frozenset(int(part) for part in re.findall(r"\d+", str(value)))


def validated(settings: QuantizationRobust, objective: str = "") -> QuantizationRobust:
    """The settings, if they go together.

    Args:
        objective: the one that is trained for, where it learns no steps; empty: it does, or there is none.

    Raises:
        SettingError: steps are to be learned by an objective that learns none, or a bit-width is out of range.
    """
    checked_bits(settings.bits, "quantization-robust.bits")
    if objective and settings.range == LEARNED:
        raise SettingError(f"quantization-robust.range = 'learned' is for qat, not for {objective}; use mse or minmax")
    assert settings.widths
    return settings
