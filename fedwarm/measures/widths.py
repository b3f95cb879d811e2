"""The widths of a run: its clients' objective, what they learn beside weights, and what is measured at which bits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from fedwarm.objectives import is_learned, learned_state, objective_hooks
from fedwarm.objectives.rq import RelaxedQuantization, steps
from fedwarm.quantize.hooks import QuantizationRobust, widths_of
from fedwarm.quantize.learned import Learned
from fedwarm.quantize.uniform import Scheme
from fedwarm.settings.config import Config
from fedwarm.settings.fields import Group, SettingError, setting
from fedwarm.training.loop import Hook

ROBUST_WIDTHS = "8,7,6,5,4,3,2"
AVERAGING = ("fedavg", "fedprox", "gen_fedsd", "centralized", "quantization_robust")


@dataclass(frozen=True)
class Evaluate(Group, prefix="evaluate", used=lambda r: r.shares):
    """Settings of what is measured after training."""

    bit_widths: str = setting("", "widths to measure the final model at, e.g. `8,6,4,3,2`; empty: none")
    activations: bool = setting(
        True, "measure with quantized activations, too (`w4a4` beside `w4`)", when=lambda r: bool(r["evaluate.bit-widths"])
    )
    calibration_images: int = setting(
        512,
        "a client's training images that set the activations' ranges",
        low=1,
        when=lambda r: bool(r["evaluate.bit-widths"]) and r["evaluate.activations"],
    )


def objective_of(config: Config) -> str:
    """The local objective: the setting's, or of method `quantization_robust` its variant."""
    if config.run.objective == "plain" and config.run.method == "quantization_robust":
        return config.of(QuantizationRobust).variant
    return config.run.objective


def hooks_of(config: Config, number: int, draws: torch.Generator, start: Mapping[str, Tensor]) -> list[Hook]:
    """The hooks of the run's objective in a round (see `objectives.objective_hooks`)."""
    return objective_hooks(objective_of(config), config, number, draws, start)


def check_objective(config: Config) -> None:
    """Refuse an objective that would not do what it is for in this run.

    Raises:
        SettingError: there is no such objective, its settings do not go together, it never begins, it learns quantizers that the
            method does not average, or private training steps do not cover it.
    """
    name, rounds = objective_of(config), config.run.num_server_rounds
    _check_shared(config, name)
    if config.run.method not in ("warmfed", "centralized") and name != "plain" and not _begins(config, name):
        raise SettingError(
            f"objective {name!r} begins after the last of {rounds} rounds; lower quantization-robust.start-round or, for kure, "
            "kure-warmup, or raise num-server-rounds"
        )
    hooks = hooks_of(config, rounds, torch.Generator().manual_seed(0), {})
    if config.run.privacy != "none":
        _check_private(config, hooks)


def _begins(config: Config, name: str) -> bool:
    settings, rounds = config.of(QuantizationRobust), config.run.num_server_rounds
    return settings.start_round <= rounds and not (name == "kure" and settings.kure_warmup >= rounds)


def _check_shared(config: Config, name: str) -> None:
    settings = config.of(QuantizationRobust)
    learns = name == "rq" or (name == "qat" and settings.range == "learned")
    if learns and (config.run.method not in AVERAGING or config.run.codec == "dp-rec"):
        raise SettingError(
            f"objective {name!r} learns quantizers that clients must share; method {config.run.method!r} with "
            f"codec {config.run.codec!r} does not average them: take one of {', '.join(AVERAGING)}, and another codec than dp-rec"
        )


def _check_private(config: Config, hooks: Iterable[Hook]) -> None:
    for hook in hooks:
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
    """How a model is quantized after training: as in training, by `quantization-robust.*`.

    Relaxed quantization has whole grids, on the layers that it trains.
    """
    scheme = config.of(QuantizationRobust).scheme
    if objective_of(config) != "rq":
        return scheme
    return replace(scheme, full_range=True, skip_first_last=config.of(RelaxedQuantization).layers == "skip_first_last")


def learned_of(config: Config, arrays: Mapping[str, Tensor]) -> Learned | None:
    """The learned steps among a model's arrays; None where there are none."""
    found = {name: tensor for name, tensor in arrays.items() if is_learned(name)}
    if objective_of(config) == "rq":
        return steps(config.of(RelaxedQuantization), found) if found else None
    return Learned(config.of(QuantizationRobust).bits, found) if found else None


def learned_template(config: Config, model: nn.Module, image_size: int) -> dict[str, Tensor]:
    """Names and shapes of what clients learn beside the weights, by a look at one empty image; the model stays as it is.

    Raises:
        SettingError: the method does not average it.
    """
    _check_shared(config, objective_of(config))
    hooks = hooks_of(config, config.run.num_server_rounds, torch.Generator().manual_seed(0), {})
    for hook in hooks:
        hook.prepare(model)
    model.train()
    with torch.no_grad():
        model(torch.zeros(1, 3, image_size, image_size, device=next(model.parameters()).device))
    for hook in hooks:
        hook.finish(model)
    return {name: torch.zeros_like(tensor) for name, tensor in learned_state(hooks).items()}


def measures(config: Config) -> list[str]:
    """What is measured at the run's widths, by name: `w4` for weights alone, `w4a4` for weights and activations."""
    found = widths(config)
    return [f"w{b}" for b in found] + ([f"w{b}a{b}" for b in found] if config.of(Evaluate).activations else [])


def by_width(names: Iterable[str], replies: Iterable[Mapping[str, int | float]]) -> dict[str, float]:
    """Accuracy by these names over the union of the clients' test images, from replies with `num-test` and `correct-<name>`."""
    told = list(replies)
    tests = sum(reply["num-test"] for reply in told)
    return {name: sum(reply[f"correct-{name}"] for reply in told) / tests for name in names} if tests else {}
