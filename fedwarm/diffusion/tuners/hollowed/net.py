"""A U-Net without its core: what is kept runs on what the core said.

Cho et al., "Hollowed Net for On-Device Personalization of Text-to-Image Diffusion Models", NeurIPS 2024, arXiv 2411.01179:

    h, S = e(z_t, t);   b = kappa(h, S_in, t, ctx);   eps_hat = dec(b, S_out, t, ctx)

with the kept encoder e, the core kappa and the kept decoder dec. The forward pass is diffusers' own, on blocks with fewer layers.
"""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from fedwarm.diffusion.tuners.hollowed.cuts import Cut

M = TypeVar("M", bound=nn.Module)


class Given(nn.Module):
    """Stands where the middle block stood and says what the core said: b, or h + (b - h)."""

    def __init__(self, residual: bool) -> None:
        super().__init__()
        self.residual = residual
        self.cached: Tensor | None = None

    def forward(self, hidden: Tensor, *others: Any, **conditions: Any) -> Tensor:
        assert self.cached is not None
        cached = self.cached.to(hidden)
        return hidden + cached if self.residual else cached


class HollowedUNet(nn.Module):
    """The kept part of a U-Net; it shares the modules, the adapter's too, and their names below `net`.

    Args:
        unet: diffusers' UNet2DConditionModel; not changed.
        cut: what is left out.
        residual: the cached tensor is b - h.

    Raises:
        ValueError: residual, but h and b differ in shape.
    """

    def __init__(self, unet: Any, cut: Cut, residual: bool = False) -> None:
        super().__init__()
        if residual and cut.channels_in != cut.channels_out:
            raise ValueError(f"depth {cut.depth}: h has {cut.channels_in} channels and b {cut.channels_out}")
        self.given = Given(residual)
        self.net = _shallow(unet)
        for side in ("down_blocks", "up_blocks"):
            blocks = {n: _thinned(block, f"{side}.{n}", cut) for n, block in getattr(unet, side).named_children()}
            self.net._modules[side] = _listed({n: block for n, block in blocks.items() if len(block.resnets)})
        self.net._modules["mid_block"] = self.given

    def forward(self, noisy: Tensor, time_steps: Tensor, context: Tensor, cached: Tensor, **conditions: Any) -> Tensor:
        """What the whole U-Net predicts where the core said `cached`; `conditions` are those of diffusers' forward."""
        self.given.cached = cached
        try:
            predicted: Tensor = self.net(noisy, time_steps, context, **conditions).sample
        finally:
            self.given.cached = None
        return predicted


def untold(unet: Any, cut: Cut, noisy: Tensor, time_steps: Tensor, context: Tensor, **conditions: Any) -> SimpleNamespace:
    """As diffusers' forward of the whole U-Net, of what is kept where the core said zeros: for counts of memory and time."""
    said = noisy.new_zeros(len(noisy), *cut.shape(noisy.shape[-1]))
    return SimpleNamespace(sample=HollowedUNet(unet, cut)(noisy, time_steps, context, said, **conditions))


def _shallow(module: M) -> M:
    """The same parameters and children in a module whose children can be replaced alone."""
    clone = copy.copy(module)
    clone.__dict__["_modules"] = dict(module._modules)
    return clone


def _listed(modules: dict[str, nn.Module]) -> nn.ModuleList:
    """A list whose members keep their names, though some are missing."""
    found = nn.ModuleList()
    for name, module in modules.items():
        found.add_module(name, module)
    return found


def _thinned(block: Any, name: str, cut: Cut) -> Any:
    """A block without the core's layers."""
    thin = _shallow(block)
    for part, inner in block.named_children():
        if isinstance(inner, nn.ModuleList):
            kept = {n: m for n, m in inner.named_children() if not cut.holds(f"{name}.{part}.{n}")}
            empty = not kept and part in ("downsamplers", "upsamplers")
            thin._modules[part] = None if empty else _listed(kept)
    return thin


class _Reached(Exception):  # noqa: N818
    """The core has spoken; nobody needs the rest of the forward pass."""


@torch.no_grad()
def core_output(
    unet: Any, cut: Cut, noisy: Tensor, time_steps: Tensor, context: Tensor, residual: bool = False, **conditions: Any
) -> Tensor:
    """What the core of the whole, unchanged net says.

    Args:
        unet: in evaluation mode, as dropout in the core would be cached for good.
        noisy, time_steps, context: the inputs of the U-Net, (n, c, h, w), (n,) and (n, tokens, width).
        residual: b - h instead of b.
        conditions: others of diffusers' forward, such as `class_labels`.

    Returns:
        (n, `*cut.shape(h)`).
    """
    if unet.training:
        raise ValueError("the whole net must be in evaluation mode while it is cached")
    seen: list[Tensor] = []

    def enter(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        seen.append(inputs[0])

    def leave(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        seen.append(output[0] if isinstance(output, tuple) else output)
        raise _Reached

    hooks = [
        unet.get_submodule(cut.enters).register_forward_pre_hook(enter),
        unet.get_submodule(cut.leaves).register_forward_hook(leave),
    ]
    try:
        unet(noisy, time_steps, context, **conditions)
    except _Reached:
        pass
    finally:
        for hook in hooks:
            hook.remove()
    h, b = seen
    return b - h if residual else b
