"""Normalisations: how a classifier's layers are normalised, by the setting `model.norm`, whatever the architecture.

A component is a function (model) -> None, or with its settings behind, that changes the model's layers in place before it has
weights of a run. It draws nothing, and the tensors that remain keep names and numbers: codecs, control variates and private steps
know them as before. `own` leaves the architecture as it is.

A kind, and not a list of choices, because methods live on it: FedWon (Zhuang and Lyu, arXiv 2306.05879) is plain FedAvg on
`standardised-weights`, and the next of them takes no more than one such function. FedBN (Li et al., arXiv 2102.07623) is `batch`
under a method that does not send the tensors `normalising(model)`; under others running statistics are averaged like weights.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

LAYERS = (nn.GroupNorm, nn.LayerNorm, nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)


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
