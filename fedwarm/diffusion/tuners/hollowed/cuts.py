"""Where a U-Net can be cut so that its middle comes out whole: pairs of layers, symmetric around the middle block.

Cho, Choi, Das, Reisser, Kim, Yun, Porikli, "Hollowed Net for On-Device Personalization of Text-to-Image Diffusion Models",
NeurIPS 2024, arXiv 2411.01179. The paper's abstract publishes no list of layers; these cuts are our reading.

Depth 0 takes the middle block. Each depth more takes the innermost encoder layer that is left and the decoder layer that
consumes its skip, so that skips of kept layers stay kept. A layer is a ResNet with its attention, or a downsampler; an upsampler
goes with the last layer of its block. In Stable Diffusion 1 and 2 depth 3 takes the lowest resolution whole, depth 6 the next.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from fedwarm.diffusion.lora import targeted
from fedwarm.diffusion.tuners import INSTEAD
from fedwarm.settings.fields import SettingError

KINDS = ("", "CrossAttn", "Attn", "SimpleCrossAttn")
DOWN = (*(f"{kind}DownBlock2D" for kind in KINDS), "ResnetDownsampleBlock2D")
UP = (*(f"{kind}UpBlock2D" for kind in KINDS), "ResnetUpsampleBlock2D")
KEPT_SHARE = 0.9


@dataclass(frozen=True)
class Cut:
    """A core to take out.

    Attributes:
        depth: pairs of layers beside the middle block.
        removed: names of the core's modules.
        enters: the module whose input is what the kept encoder hands to the core, h.
        leaves: the module whose output is what the core hands to the kept decoder, b.
        channels_in, channels_out: of h and b.
        halvings: how often the latent is halved before h; b is as large.
    """

    depth: int
    removed: tuple[str, ...]
    enters: str
    leaves: str
    channels_in: int
    channels_out: int
    halvings: int

    def holds(self, name: str) -> bool:
        """Whether a module or parameter of that name is in the core."""
        return any(name == core or name.startswith(f"{core}.") for core in self.removed)

    def shape(self, latent_size: int) -> tuple[int, int, int]:
        """(c, h, w) of b for square latents."""
        side = latent_size
        for _ in range(self.halvings):
            side = -(-side // 2)
        return self.channels_out, side, side


@dataclass(frozen=True)
class Row:
    """What one cut takes and leaves: weights in the core, their share, parameters and layers of the adapter that is kept."""

    cut: Cut
    weights: int
    share: float
    adapter: int
    layers: int


def check_cuttable(unet: nn.Module) -> None:
    """Refuse what has no middle between skips.

    Raises:
        SettingError: it is no U-Net of diffusers' class, or has blocks whose skips are wired otherwise.
    """
    from diffusers import UNet2DConditionModel

    if not isinstance(unet, UNet2DConditionModel):
        raise no_unet(type(unet).__name__)
    blocks = [*unet.down_blocks, *unet.up_blocks]
    strange = sorted({type(block).__name__ for block in blocks} - {*DOWN, *UP})
    if strange or unet.mid_block is None or len(_encoder(unet)) != len(_decoder(unet)):
        what = f"blocks of class {', '.join(strange)}" if strange else "no middle block between matching skips"
        raise SettingError(f"diffusion.trainer = 'hollowed' cannot cut this U-Net: it has {what}; {INSTEAD}")


def no_unet(kind: str) -> SettingError:
    """Why a backbone of another class is refused."""
    return SettingError(
        f"diffusion.trainer = 'hollowed' cannot cut a {kind}: it takes the middle out of a UNet2DConditionModel along its "
        f"skips; a transformer has none, and its middle blocks hold the subject; {INSTEAD}"
    )


def _encoder(unet: Any) -> list[tuple[str, ...]]:
    """Modules behind each skip, outermost first."""
    layers: list[tuple[str, ...]] = [("conv_in",)]
    for i, block in enumerate(unet.down_blocks):
        layers += _layers(f"down_blocks.{i}", block)
        if block.downsamplers is not None:
            layers.append(tuple(f"down_blocks.{i}.downsamplers.{j}" for j in range(len(block.downsamplers))))
    return layers


def _decoder(unet: Any) -> list[tuple[str, ...]]:
    """Modules that consume each skip and what follows them, innermost first."""
    layers: list[tuple[str, ...]] = []
    for i, block in enumerate(unet.up_blocks):
        own = _layers(f"up_blocks.{i}", block)
        if block.upsamplers is not None:
            own[-1] += tuple(f"up_blocks.{i}.upsamplers.{j}" for j in range(len(block.upsamplers)))
        layers += own
    return layers


def _layers(name: str, block: Any) -> list[tuple[str, ...]]:
    attended = len(getattr(block, "attentions", ()))
    return [(f"{name}.resnets.{j}", *((f"{name}.attentions.{j}",) if j < attended else ())) for j in range(len(block.resnets))]


def deepest(unet: nn.Module) -> int:
    """The largest depth: only the first convolution and the last decoder layer are left."""
    check_cuttable(unet)
    return len(_encoder(unet)) - 1


def cut_at(unet: Any, depth: int) -> Cut:
    """The cut of a depth.

    Raises:
        SettingError: the net cannot be cut (see `check_cuttable`), or not so deep.
    """
    most = deepest(unet)
    if not 0 <= depth <= most:
        raise SettingError(f"hollowed depth {depth} is out of range for this U-Net; it must be 0 to {most}")
    encoder, decoder = _encoder(unet), _decoder(unet)
    kept, gone = encoder[: len(encoder) - depth], encoder[len(encoder) - depth :]
    core = ("mid_block", *(name for layer in [*gone, *decoder[:depth]] for name in layer))
    end = unet.get_submodule(decoder[depth - 1][0]) if depth else unet.mid_block.resnets[-1]
    return Cut(
        depth=depth,
        removed=core,
        enters=gone[0][0] if depth else "mid_block",
        leaves=decoder[depth - 1][-1] if depth else "mid_block",
        channels_in=unet.get_submodule(kept[-1][0]).out_channels,
        channels_out=end.out_channels,
        halvings=sum(".downsamplers." in name for layer in kept for name in layer),
    )


def removed_weights(unet: nn.Module, cut: Cut) -> int:
    """Number of weights in the core, adapters not counted."""
    return sum(p.numel() for name, p in unet.named_parameters() if cut.holds(name) and "lora_" not in name)


def kept_layers(unet: nn.Module, cut: Cut | None, targets: str) -> dict[str, nn.Linear]:
    """The targeted layers outside the core, by name.

    Raises:
        SettingError: none is left.
    """
    kept = {name: layer for name, layer in targeted(unet, targets).items() if cut is None or not cut.holds(name)}
    if not kept and cut is not None:
        raise SettingError(
            f"hollowed depth {cut.depth} leaves no layer of diffusion.targets = {targets!r}; set hollowed.depth to "
            "a smaller number"
        )
    return kept


def kept_size(unet: nn.Module, cut: Cut | None, rank: int, targets: str) -> int:
    """Number of parameters of the adapter that is left: rank times the sum over kept layers of (inputs + outputs)."""
    return rank * sum(layer.in_features + layer.out_features for layer in kept_layers(unet, cut, targets).values())


def cuts(unet: nn.Module, targets: str) -> Iterator[Cut]:
    """All cuts that leave a targeted layer, shallow first."""
    for depth in range(deepest(unet) + 1):
        cut = cut_at(unet, depth)
        if all(cut.holds(name) for name in targeted(unet, targets)):
            return
        yield cut


def table(unet: nn.Module, rank: int, targets: str) -> list[Row]:
    """Every cut with what it takes and leaves."""
    total = sum(p.numel() for name, p in unet.named_parameters() if "lora_" not in name)
    rows = []
    for cut in cuts(unet, targets):
        weights = removed_weights(unet, cut)
        size, layers = kept_size(unet, cut, rank, targets), len(kept_layers(unet, cut, targets))
        rows.append(Row(cut, weights, weights / total, size, layers))
    return rows


def balanced_depth(unet: nn.Module, targets: str) -> int:
    """The deepest cut that leaves nine tenths of the adapter, or 0: it is 3 in Stable Diffusion 1 and 2, and 0 in small nets."""
    whole = kept_size(unet, None, 1, targets)
    return max((c.depth for c in cuts(unet, targets) if kept_size(unet, c, 1, targets) >= KEPT_SHARE * whole), default=0)
