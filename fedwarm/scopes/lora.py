"""Low-rank adapters: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022, arXiv 2106.09685; by a
federation of classifiers: Sun, Khalid, Mendieta, Wang, Chen, arXiv 2210.01708.

A convolution's weight (outputs, inputs, h, w) is taken as the matrix (outputs, inputs h w). The mean of clients' factors is no
factor of the mean of their products; with `lora.freeze-down` it is, as all have the same first factor (Sun, Li, Li, Ding,
"Improving LoRA in Privacy-preserving Federated Learning", ICLR 2024, arXiv 2403.12313).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

import torch
from torch import Tensor, nn

from fedwarm.scopes import State, train_only
from fedwarm.settings.fields import Group, SettingError, setting
from fedwarm.settings.registry import component

DOWN, UP = "lora_down", "lora_up"
ADAPTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True)
class Lora(Group, prefix="lora"):
    """Settings of the scope `lora`."""

    rank: int = setting(4, "rank of the adapters; a layer that has no more numbers than an adapter of it gets none", low=1)
    alpha: float = setting(0.0, "adapters are scaled by alpha / rank; 0: the rank", low=0.0)
    freeze_down: bool = setting(
        False, "true: the first factor stays as drawn and does not travel, so that the server's mean is exact (FFA-LoRA)"
    )

    @property
    def scale(self) -> float:
        """alpha / rank."""
        return self.alpha / self.rank if self.alpha else 1.0


class Adapted(nn.Module):
    """A layer whose weight is W + scale B A: A (rank, n) and B (outputs, rank), n = W's numbers by output; its state holds W."""

    lora_down: nn.Parameter
    lora_up: nn.Parameter
    lora_scale: float

    @property
    def weight(self) -> Tensor:
        """The sum, which the layer, and whoever reads its weight, computes with."""
        return sum_of(cast(Tensor, self._parameters["weight"]), self.lora_down, self.lora_up, self.lora_scale)


def sum_of(weight: Tensor, down: Tensor, up: Tensor, scale: float) -> Tensor:
    """W + scale B A, in W's shape."""
    return weight + scale * (up @ down).view_as(weight)


@lru_cache
def _adapted(kind: Any) -> Any:
    return type(kind.__name__, (Adapted, kind), {})


def merge(state: State, settings: Lora) -> State:
    """Each adapter added to its layer's weight."""
    found = {name: tensor for name, tensor in state.items() if name.rpartition(".")[2] not in (DOWN, UP)}
    for name in state:
        layer, dot, own = name.rpartition(".")
        if own == UP:
            before = layer + dot
            weight, down = state[f"{before}weight"], state[f"{before}{DOWN}"]
            found[f"{before}weight"] = sum_of(weight, down, state[name], settings.scale)
    return found


@component(settings=Lora, merge=merge)
def lora(model: nn.Module, head: tuple[str, ...], settings: Lora) -> None:
    """Adapters of low rank beside the weights of linear layers and convolutions, and the last layer itself.

    Raises:
        SettingError: no layer is large enough for an adapter.
    """
    train_only(model, lambda name: name in head)
    found = [
        part
        for name, part in model.named_modules()
        if isinstance(part, ADAPTED) and f"{name}.weight".lstrip(".") not in head and _worth(part.weight, settings.rank)
    ]
    if not found:
        raise SettingError(
            f"model.train = 'lora' finds no linear layer or convolution that is larger than its adapter of rank {settings.rank}; "
            "lower lora.rank, or use model.train = 'bias' or 'head'"
        )
    for part in found:
        _adapt(part, settings)


def _worth(weight: Tensor, rank: int) -> bool:
    outputs = weight.shape[0]
    return isinstance(weight, nn.Parameter) and rank * (outputs + weight[0].numel()) < weight.numel()


def _adapt(layer: nn.Module, settings: Lora) -> None:
    weight: Any = layer.weight
    down = torch.empty(settings.rank, weight[0].numel(), dtype=weight.dtype, device=weight.device)
    nn.init.kaiming_uniform_(down, a=math.sqrt(5))
    layer.register_parameter(DOWN, nn.Parameter(down, requires_grad=not settings.freeze_down))
    layer.register_parameter(UP, nn.Parameter(weight.new_zeros(weight.shape[0], settings.rank)))
    vars(layer)["lora_scale"] = settings.scale
    kind: Any = type(layer)
    object.__setattr__(layer, "__class__", _adapted(kind))


COMPONENT = lora
