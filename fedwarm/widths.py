"""The widths of a run: its clients' objective, what they learn beside weights, and what is measured at which bits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from fedwarm.config import Config, Group, SettingError, setting
from fedwarm.methods.quantization_robust import QuantizationRobust, widths_of
from fedwarm.methods.relaxed_quantization import RelaxedQuantization, steps
from fedwarm.objectives import is_learned, learned_state, objective_hooks
from fedwarm.quantize.learned import Learned
from fedwarm.quantize.uniform import Scheme
from fedwarm.training import Hook

ROBUST_WIDTHS = "8,7,6,5,4,3,2"
AVERAGING = ("fedavg", "fedprox", "gen_fedsd", "centralized", "quantization_robust")


@dataclass(frozen=True)
class Evaluate(Group):
    """Settings of what is measured after training."""

    prefix: ClassVar[str] = "evaluate"
    bit_widths: str = setting("", "widths to measure the final model at, e.g. `8,6,4,3,2`; empty: none")
    activations: bool = setting(True, "measure with quantized activations, too (`w4a4` beside `w4`)")
    calibration_images: int = setting(512, "a client's training images that set the activations' ranges", low=1)


def objective_of(config: Config) -> str:
    """The local objective: the setting's, or of method `quantization_robust` its variant."""
    if config.run.objective == "plain" and config.run.method == "quantization_robust":
        return config.of(QuantizationRobust).variant
    return config.run.objective


def hooks_of(config: Config, number: int, draws: torch.Generator, start: Mapping[str, Tensor]) -> list[Hook]:
    """The hooks of the run's objective in a round (see `objectives.objective_hooks`)."""
    return objective_hooks(objective_of(config), config, number, draws, start)


def check_covered(config: Config) -> None:
    """Refuse an objective that private training steps do not cover.

    Raises:
        SettingError: it looks at more than one example at a time.
    """
    if config.run.privacy == "none":
        return
    for hook in hooks_of(config, config.run.num_server_rounds, torch.Generator().manual_seed(0), {}):
        if hook.uses not in ("weights", "example"):
            raise SettingError(
                f"objective {objective_of(config)!r} looks at more than one example at a time, which privacy = "
                f"{config.run.privacy!r} does not cover; take kure, apqn, or qat and mqat without quantized activations"
            )


def widths(config: Config) -> tuple[int, ...]:
    """The widths to measure the final model at; method `quantization_robust` has 8 to 2 where none are set.

    Raises:
        SettingError: they are no list of widths.
    """
    text = config.of(Evaluate).bit_widths
    if not text and config.run.method == "quantization_robust":
        text = ROBUST_WIDTHS
    return widths_of(text, "evaluate.bit-widths") if text else ()


def scheme_of(config: Config) -> Scheme:
    """How a model is quantized after training: as in training, by `quantization-robust.*`; relaxed grids are whole."""
    scheme = config.of(QuantizationRobust).scheme
    return replace(scheme, full_range=True) if objective_of(config) == "rq" else scheme


def learned_of(config: Config, arrays: Mapping[str, Tensor]) -> Learned | None:
    """The learned steps among a model's arrays; None where there are none."""
    found = {name: tensor for name, tensor in arrays.items() if is_learned(name)}
    if objective_of(config) == "rq":
        return steps(config.of(RelaxedQuantization), found) if found else None
    return Learned(config.of(QuantizationRobust).bits, found) if found else None


def learned_template(config: Config, model: nn.Module, image_size: int) -> dict[str, Tensor]:
    """Names and shapes of what clients learn beside the weights, by a look at one empty image; the model stays as it is.

    Raises:
        SettingError: the method cannot average it.
    """
    hooks = hooks_of(config, config.run.num_server_rounds, torch.Generator().manual_seed(0), {})
    for hook in hooks:
        hook.prepare(model)
    model.train()
    with torch.no_grad():
        model(torch.zeros(1, 3, image_size, image_size, device=next(model.parameters()).device))
    for hook in hooks:
        hook.finish(model)
    found = {name: torch.zeros_like(tensor) for name, tensor in learned_state(hooks).items()}
    if found and (config.run.method not in AVERAGING or config.run.codec == "dp-rec"):
        raise SettingError(
            f"objective {objective_of(config)!r} learns quantizers that clients must share; method {config.run.method!r} with "
            f"codec {config.run.codec!r} does not average them: take one of {', '.join(AVERAGING)}, and another codec than dp-rec"
        )
    return found


def by_width(replies: Iterable[Mapping[str, int | float]]) -> dict[str, float]:
    """Accuracy by width over the union of the clients' test images, from replies with `num-test` and `correct-w..`."""
    told = list(replies)
    names = [name for name in (told[0] if told else {}) if name.startswith("correct-w")]
    tests = sum(reply["num-test"] for reply in told)
    return {name.removeprefix("correct-"): sum(reply[name] for reply in told) / tests for name in names} if tests else {}
