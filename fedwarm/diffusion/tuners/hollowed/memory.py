"""What training takes by a count on a net without numbers: weights, adapter, gradients, optimiser, kept activations.

The count is exact for what autograd keeps where attention is fused (its matrix is never stored); what an operation takes for a
moment is not in it, so a measured peak is higher.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from fedwarm.diffusion.counting import kept_bytes
from fedwarm.diffusion.lora import attached
from fedwarm.diffusion.settings import Diffusion
from fedwarm.diffusion.tuners.hollowed.cuts import Cut, balanced_depth, cuts, kept_layers
from fedwarm.diffusion.tuners.hollowed.net import HollowedUNet
from fedwarm.settings.fields import SettingError

MB = 1e6
ADAM_STATES = 2
TOKENS = 77


@dataclass(frozen=True)
class Footprint:
    """Bytes of training.

    Attributes:
        weights: of the kept net.
        trained: what moves, its gradient and AdamW's two states; the weights themselves count here where all of them train.
        activations: what the forward pass keeps for the backward pass, at the given batch size.
    """

    weights: int
    trained: int
    activations: int

    @property
    def total(self) -> int:
        return self.weights + self.trained + self.activations


def twin(unet: Any, dtype: torch.dtype) -> Any:
    """The same architecture without numbers."""
    with torch.device("meta"):
        net = type(unet).from_config(unet.config)
    return nn.Module.to(net, dtype).requires_grad_(False)


def footprint(
    unet: Any,
    settings: Diffusion,
    cut: Cut | None,
    dtype: torch.dtype,
    *,
    full: bool = False,
    tokens: int = TOKENS,
    side: int = 0,
) -> Footprint:
    """Bytes that a step takes.

    Args:
        unet: any of the architecture; its own numbers are not touched.
        settings: rank, targets and batch size; gradient checkpoints are left out of the count, so that it is too high with them.
        cut: None: the whole net.
        dtype: of the frozen weights; adapters are float32.
        full: all weights train instead of an adapter.
        tokens: length of the context.
        side: of a latent; 0: the net's own.
    """
    net = twin(unet, dtype)
    with ExitStack() as stack:
        if full:
            net.requires_grad_(True)
        else:
            own = replace(settings, targets=",".join(kept_layers(net, cut, settings.targets)))
            stack.enter_context(attached(net, own, 0, "footprint"))
        used = net if cut is None else HollowedUNet(net, cut)
        moving = sum(p.numel() * p.itemsize for p in used.parameters() if p.requires_grad)
        still = sum(p.numel() * p.itemsize for p in used.parameters() if not p.requires_grad)
        size = side or net.config.sample_size
        kept = _activations(used, net.config, cut, settings.lora_batch_size, tokens, size)
        return Footprint(still, (2 + ADAM_STATES) * moving, kept)


def _activations(net: nn.Module, config: Any, cut: Cut | None, batch: int, tokens: int, size: int) -> int:
    """Bytes of the distinct tensors that a forward pass keeps, parameters left out."""
    dtype = next(p.dtype for p in net.parameters())
    with torch.device("meta"):
        noisy = torch.empty(batch, config.in_channels, size, size, dtype=dtype)
        width = config.cross_attention_dim
        context = torch.empty(batch, tokens, width if isinstance(width, int) else width[0], dtype=dtype)
        inputs = [noisy, torch.zeros(batch, dtype=torch.int64), context]
        if cut is not None:
            inputs.append(torch.empty(batch, *cut.shape(size), dtype=dtype))
    return kept_bytes(net, lambda: net(*inputs))


def affordable_depth(
    unet: Any, settings: Diffusion, dtype: torch.dtype, budget_mb: int, tokens: int = TOKENS, side: int = 0
) -> int:
    """The least depth whose count fits the budget; without a budget (0) the balanced one.

    Raises:
        SettingError: none fits, or the whole net alone, which must speak once before it is cut, is larger.
    """
    if not budget_mb:
        return balanced_depth(unet, settings.targets)
    whole = sum(p.numel() for p in unet.parameters()) * dtype.itemsize
    if whole > budget_mb * MB:
        raise SettingError(
            f"hollowed.memory-budget-mb = {budget_mb} is less than the whole U-Net takes without training, "
            f"{whole / MB:,.0f} MB; raise it above that, or take a smaller foundation"
        )
    least = 0.0
    for cut in cuts(unet, settings.targets):
        least = footprint(unet, settings, cut, dtype, tokens=tokens, side=side).total / MB
        if least <= budget_mb:
            return cut.depth
    raise SettingError(
        f"hollowed.memory-budget-mb = {budget_mb} is too little at any depth: the deepest cut takes {least:,.0f} MB at "
        f"diffusion.lora-batch-size = {settings.lora_batch_size}; raise the one or lower the other"
    )
