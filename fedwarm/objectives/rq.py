"""Relaxed quantization as a local objective: clients train through noisy quantizers whose grids they learn and average.

Louizos, Reisser, Blankevoort, Gavves, Welling, "Relaxed Quantization for Discretized Neural Networks", arXiv 1810.01875. The
paper is not federated: here log alpha and log sigma of each quantizer travel beside the weights, and the server averages them
as they are, which is the geometric mean of the scales.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from fedwarm.objectives import Get, Layered, Round, is_learned
from fedwarm.quantize.learned import STEP, Learned
from fedwarm.quantize.relaxed import VARIANTS, Rule
from fedwarm.quantize.relaxed_model import ALPHA, Relaxed, State, near, quantizer_state, quantizers
from fedwarm.quantize.settings import SCHEME, START, QuantizationRobust, validated, widths_in
from fedwarm.quantize.uniform import Scheme
from fedwarm.settings.config import Config
from fedwarm.settings.fields import Group, setting
from fedwarm.training.loop import Hook


@dataclass(frozen=True)
class RelaxedQuantization(Group, prefix="relaxed-quantization", used=lambda r: r.trains):
    """Settings of relaxed quantization."""

    variant: str = setting(
        "rq_st",
        "numbers that the forward pass uses; rq_st: grid values, with a relaxed gradient; rq: relaxed values; sr: grid "
        "values by stochastic rounding",
        choices=VARIANTS,
    )
    bits_weights: int = setting(4, "bits of the weights, 1 to 16; 0: float", low=0, high=16)
    bits_activations: int = setting(4, "bits of the inputs of layers, 1 to 16; 0: float", low=0, high=16)
    noise: str = setting("logistic", "distribution of the noise before rounding", choices=("logistic", "gaussian"))
    temperature: float = setting(0.0, "lambda, temperature of the concrete relaxation; 0: 1 for rq_st, 2/3 for rq", low=0.0)
    local_grid: bool = setting(
        True, "true: sample only the grid points near a number; false: all points, in a time that grows as 2^b"
    )
    delta_w: float = setting(
        3.0,
        "half width of the local grid in units of the noise sigma",
        low=0.0,
        when=lambda r: bool(r["relaxed-quantization.local-grid"]),
    )
    alpha_init: str = setting(
        "mse", "initial step alpha of a grid; mse: least squared error of rounding; range: (max - min) / (2^b - 1)",
        choices=("mse", "range"),
    )  # fmt: skip
    sigma_init: float = setting(1 / 3, "initial noise sigma in units of the step alpha", low=1e-3, high=1e3)
    floor: float = setting(1e-3, "lower limit of the noise sigma in units of the step alpha", low=1e-3, high=1.0)
    lr_factor: float = setting(
        0.1, "learning rate of the grids' steps and noise (log alpha, log sigma), as a multiple of that of the weights", low=0.0
    )
    layers: str = setting(
        "all", "quantized layers; all; skip_first_last: all but the first and the last", choices=("all", "skip_first_last")
    )

    def rule(self, bits: int) -> Rule | None:
        """How tensors of this width are quantized; None for 0."""
        temperature = self.temperature or (2 / 3 if self.variant == "rq" else 1.0)
        noise = (self.variant, self.noise, temperature, self.local_grid, self.delta_w)
        return Rule(bits, *noise, self.floor, self.alpha_init, self.sigma_init) if bits else None

    def on(self, draws: torch.Generator) -> Relaxed:
        """The quantizers that go on a model; `draws` is their noise."""
        return Relaxed(self.rule(self.bits_weights), self.rule(self.bits_activations), draws, self.layers == "skip_first_last")


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
        state: the learned logs after `finish`, each within 3 of the server's, of what was quantized.
    """

    def __init__(
        self, settings: RelaxedQuantization, generator: torch.Generator, start: Mapping[str, Tensor] | None = None
    ) -> None:
        self.settings, self.start = settings, dict(start or {})
        self.relaxed = settings.on(generator)
        self.state: State = {}

    def prepare(self, model: nn.Module) -> None:
        self.relaxed.attach(model, self.start)

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
    relaxed.attach(model, state)
    try:
        yield model.eval()
    finally:
        relaxed.detach()
        model.train(training)


class RqObjective(Layered):
    """Training through noisy quantizers; the model is measured and exported on whole grids, on the layers that it trains."""

    def begins(self, config: Config) -> int:
        return config.of(QuantizationRobust).start_round

    def local_hooks(self, config: Config, now: Round) -> list[Hook]:
        validated(config.of(QuantizationRobust), "rq")
        return [RelaxedObjective(config.of(RelaxedQuantization), now.draws, now.start)]

    def learns(self, config: Config) -> bool:
        return True

    def scheme(self, config: Config) -> Scheme:
        skip = config.of(RelaxedQuantization).layers == "skip_first_last"
        return replace(super().scheme(config), full_range=True, skip_first_last=skip)

    def learned(self, config: Config, arrays: Mapping[str, Tensor]) -> Learned | None:
        found = {name: array for name, array in arrays.items() if is_learned(name)}
        return steps(config.of(RelaxedQuantization), found) if found else None

    def seen(self, get: Get, activations: bool) -> frozenset[int]:
        bits = get("relaxed-quantization.bits-weights")
        return frozenset() if activations and get("relaxed-quantization.bits-activations") != bits else widths_in(bits)


COMPONENT = RqObjective(
    "trains with noisy quantizers and learned grids (Louizos et al., 2019)",
    settings=RelaxedQuantization,
    uses=(START,),
    delays=(START,),
    scheme_uses=SCHEME[:2],
    layers="Linear and Conv",
)
