"""Normalisations: how a classifier's layers are normalised, by the setting `model.norm`, whatever the architecture.

A component is a function (model) -> None, or with its settings behind, that changes the model's layers in place before it has
weights of a run. It draws nothing, and the tensors that remain keep names and numbers: codecs, control variates and private steps
know them as before. `own` leaves the architecture as it is.

A kind, and not a list of choices, because methods live on it: FedWon (Zhuang and Lyu, arXiv 2306.05879) is plain FedAvg on
`standardised-weights`, and the next of them takes no more than one such function. FedBN (Li et al., arXiv 2102.07623) is a method
that does not send the tensors `normalising(model)`; under others running statistics are averaged like weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any

from torch import Tensor, nn

from fedwarm.core.arrays import Arrays
from fedwarm.core.norms import floats
from fedwarm.settings.ranges import SettingError

BATCH = nn.modules.batchnorm._BatchNorm
LAYERS = (nn.GroupNorm, nn.LayerNorm, BATCH, nn.modules.instancenorm._InstanceNorm)
COUNTER, VARIANCE = "num_batches_tracked", "running_var"
STATISTICS = ("running_mean", VARIANCE)
AVERAGED, FROZEN = "averaged", "frozen"


def normalising(model: nn.Module) -> tuple[str, ...]:
    """Names of the tensors in the model's state that belong to layers of normalisation."""
    layers = [name for name, part in model.named_modules() if isinstance(part, LAYERS)]
    return tuple(tensor for tensor in model.state_dict() if tensor.rpartition(".")[0] in layers)


def replaced(model: nn.Module, new: Callable[[nn.Module, int], nn.Module]) -> int:
    """Put `new(layer, channels)` in the place of each normalisation over channels; how many there are."""
    found = 0
    for part in [*model.modules()]:
        for name, layer in [*part.named_children()]:
            channels = getattr(layer, "num_channels", None) or getattr(layer, "num_features", None)
            if isinstance(layer, LAYERS) and channels is not None:
                setattr(part, name, new(layer, int(channels)))
                found += 1
    return found


class Scaled(nn.Module):
    """factor x."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, input: Tensor) -> Tensor:
        return self.factor * input


def blocks(model: nn.Module) -> list[nn.Module]:
    """Residual blocks: parts with a `shortcut`, or a `downsample` as torchvision calls it."""
    return [part for part in model.modules() if hasattr(part, "shortcut") or hasattr(part, "downsample")]


def without(model: nn.Module, branch: float = 1.0) -> None:
    """Take the normalisation over channels away; convolutions get the bias, 0 at first, that it stood for.

    Args:
        branch: factor of a residual block's branch, in the place of the branch's last normalisation.
    """
    ends = [[layer for layer in part.children() if isinstance(layer, LAYERS)][-1:] for part in blocks(model)]
    last = [layer for found in ends for layer in found] if branch != 1 else []
    replaced(model, lambda layer, channels: Scaled(branch) if any(layer is end for end in last) else nn.Identity())
    for part in model.modules():
        if isinstance(part, nn.Conv2d) and part.bias is None:
            part.bias = nn.Parameter(part.weight.new_zeros(part.out_channels))


def weights(arrays: Arrays) -> list[str]:
    """The names of the float arrays of a model that are trained: running statistics have no gradient, and are no weights."""
    return [name for name in floats(arrays) if name.rpartition(".")[2] not in STATISTICS]


def mixing(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The layers, by name, whose output for an example depends, in training, on the other examples of its batch."""
    return ((name, part) for name, part in model.named_modules() if isinstance(part, BATCH) and not isinstance(part, Still))


def prepare(model: nn.Module, kept: str = AVERAGED) -> None:
    """Make batch normalisation's state floats alone, which have a mean; `kept` is `averaged` or `frozen` (see `Still`).

    Counters of steps (`num_batches_tracked`) are taken out, and are passed over where a state that is loaded has them: an average
    with a momentum needs none.

    Raises:
        SettingError: a layer averages over all batches (momentum None), which no mean of clients' models continues.
    """
    for name, layer in [(name, part) for name, part in model.named_modules() if isinstance(part, LAYERS)]:
        if getattr(layer, COUNTER, None) is not None:
            if layer.momentum is None:
                raise SettingError(
                    f"layer {name!r} of the classifier averages its statistics over all batches (momentum=None), which cannot be "
                    "continued from a mean of clients' models; give it a momentum, or use model.norm='group'"
                )
            layer.num_batches_tracked = None
            layer._register_load_state_dict_pre_hook(_pass_over)  # type: ignore[no-untyped-call]
        if kept == FROZEN and isinstance(layer, BATCH) and layer.track_running_stats:
            vars(layer)["training"] = False
            kind: Any = type(layer)
            object.__setattr__(layer, "__class__", _still(kind))


def floored(state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The state with variances of 0 where noise, or a step past the mean, brought them below."""
    low = [name for name, tensor in state.items() if name.endswith(VARIANCE) and bool((tensor < 0).any())]
    return {**state, **{name: state[name].clamp(min=0) for name in low}} if low else state


class Still(nn.Module):
    """A layer that stays in evaluation mode: it normalises by the statistics that it has, in training, too, and keeps them."""

    def train(self, mode: bool = True) -> Any:
        """Evaluation mode, whatever is asked for."""
        return super().train(False)


@lru_cache
def _still(kind: Any) -> Any:
    return type(kind.__name__, (Still, kind), {})


def _pass_over(state: dict[str, Tensor], prefix: str, *rest: object) -> None:
    state.pop(f"{prefix}{COUNTER}", None)
