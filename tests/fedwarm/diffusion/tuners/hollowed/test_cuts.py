"""Cuts: which layers go together, what they weigh, and which nets have none."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import pytest
import torch
from torch import nn

from fedwarm.diffusion.foundation import Foundation
from fedwarm.diffusion.lora import adapter_size, attached, targeted
from fedwarm.diffusion.settings import Diffusion
from fedwarm.diffusion.tuners.hollowed.cuts import (
    balanced_depth,
    check_cuttable,
    cut_at,
    deepest,
    kept_layers,
    kept_size,
    removed_weights,
    table,
)
from fedwarm.settings.fields import SettingError

TARGETS = Diffusion().targets
WIDTHS = {"sample_size": 64, "block_out_channels": (320, 640, 1280, 1280), "layers_per_block": 2}
LAYOUTS: dict[str, dict[str, Any]] = {
    "sd1": {**WIDTHS, "cross_attention_dim": 768, "attention_head_dim": 8},
    "sd2": {**WIDTHS, "cross_attention_dim": 1024, "attention_head_dim": [5, 10, 20, 20], "use_linear_projection": True},
    "tiny": {
        "sample_size": 16, "in_channels": 1, "out_channels": 1, "block_out_channels": (16, 32, 64), "layers_per_block": 1,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "cross_attention_dim": 32, "attention_head_dim": 4, "norm_num_groups": 8,
    },
}  # fmt: skip
SD1 = {
    0: (["mid_block"], 97_038_080, 719_360, 120, (1280, 8, 8)),
    1: (["down_blocks.3.resnets.1", "up_blocks.0.resnets.0"], 177_341_440, 719_360, 120, (1280, 8, 8)),
    2: (["down_blocks.3.resnets.0", "up_blocks.0.resnets.1"], 257_644_800, 719_360, 120, (1280, 8, 8)),
    3: (
        ["down_blocks.2.downsamplers.0", "up_blocks.0.resnets.2", "up_blocks.0.upsamplers.0"],
        336_303_360, 719_360, 120, (1280, 16, 16),
    ),
    4: (
        ["down_blocks.2.resnets.1", "down_blocks.2.attentions.1", "up_blocks.1.resnets.0", "up_blocks.1.attentions.0"],
        486_128_640, 563_712, 104, (1280, 16, 16),
    ),
    5: (
        ["down_blocks.2.resnets.0", "down_blocks.2.attentions.0", "up_blocks.1.resnets.1", "up_blocks.1.attentions.1"],
        629_400_320, 408_064, 88, (1280, 16, 16),
    ),
    6: (
        ["down_blocks.1.downsamplers.0", "up_blocks.1.resnets.2", "up_blocks.1.attentions.2", "up_blocks.1.upsamplers.0"],
        723_566_720, 330_240, 80, (1280, 32, 32),
    ),
}  # fmt: skip


@lru_cache
def net(layout: str) -> Any:
    """A layout's U-Net without memory for its numbers."""
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        return UNet2DConditionModel(**LAYOUTS[layout]).requires_grad_(False)


def test_stable_diffusion_1_to_the_weight() -> None:
    rows, before = table(net("sd1"), 4, TARGETS), set[str]()
    for depth, (new, weights, adapter, layers, shape) in SD1.items():
        row = rows[depth]
        assert sorted(set(row.cut.removed) - before) == sorted(new) and before < set(row.cut.removed)
        assert (row.cut.depth, row.weights, row.adapter, row.layers) == (depth, weights, adapter, layers)
        assert row.cut.shape(64) == shape
        before = set(row.cut.removed)
    assert [f"{100 * row.share:.1f}" for row in rows[:7]] == ["11.3", "20.6", "30.0", "39.1", "56.6", "73.2", "84.2"]
    assert [row.cut.channels_in == row.cut.channels_out for row in rows[:7]] == [True] * 5 + [False] * 2
    uplinks = [1 - row.adapter / adapter_size(net("sd1"), 4, TARGETS) for row in rows[:7]]
    assert [f"{100 * share:.1f}" for share in uplinks] == ["9.8"] * 4 + ["29.3", "48.8", "58.6"]


def test_stable_diffusion_2_by_shares() -> None:
    rows = table(net("sd2"), 4, TARGETS)
    assert [f"{100 * row.share:.1f}" for row in rows[:7]] == ["11.3", "20.6", "29.8", "38.9", "56.4", "73.1", "84.0"]
    assert [row.cut.removed for row in rows] == [row.cut.removed for row in table(net("sd1"), 4, TARGETS)]


def test_the_small_net_of_three_levels() -> None:
    rows = table(net("tiny"), 4, TARGETS)
    assert [f"{100 * row.share:.1f}" for row in rows[:3]] == ["23.5", "58.2", "80.9"]
    assert [row.adapter for row in rows[:3]] == [17_664, 9_984, 6_144]
    assert adapter_size(net("tiny"), 4, TARGETS) == 21_504
    assert rows[2].cut.removed == (
        "mid_block", "down_blocks.1.downsamplers.0", "down_blocks.2.resnets.0", "down_blocks.2.attentions.0",
        "up_blocks.0.resnets.0", "up_blocks.0.attentions.0", "up_blocks.0.resnets.1", "up_blocks.0.attentions.1",
        "up_blocks.0.upsamplers.0",
    )  # fmt: skip


@pytest.mark.parametrize(("layout", "most", "balanced"), [("sd1", 11, 3), ("sd2", 11, 3), ("tiny", 5, 0)])
def test_how_deep_it_goes(layout: str, most: int, balanced: int) -> None:
    unet = net(layout)
    assert deepest(unet) == most
    assert balanced_depth(unet, TARGETS) == balanced
    assert cut_at(unet, 0).removed == ("mid_block",)
    for depth in (-1, most + 1):
        with pytest.raises(SettingError, match=f"depth {depth} is out of range for this U-Net; it must be 0 to {most}"):
            cut_at(unet, depth)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_pair_is_a_skip_and_its_consumer(layout: str) -> None:
    """The decoder layer that goes at a depth takes as many channels more than b has as the encoder layer that goes gives."""
    unet, last = net(layout), cut_at(net(layout), 0)
    for depth in range(1, deepest(unet) + 1):
        cut = cut_at(unet, depth)
        consumer = unet.get_submodule(next(n for n in cut.removed if n.startswith("up_") and n not in last.removed))
        giver = unet.get_submodule(cut.enters)
        assert consumer.in_channels == last.channels_out + giver.out_channels
        assert last.channels_in == giver.out_channels
        last = cut


@pytest.mark.parametrize("layout", LAYOUTS)
def test_kept_and_removed_make_the_whole(layout: str) -> None:
    unet = net(layout)
    layers, total = targeted(unet, TARGETS), sum(p.numel() for p in unet.parameters())
    for row in table(unet, 2, TARGETS):
        kept = kept_layers(unet, row.cut, TARGETS)
        assert kept.keys() == {name for name in layers if not row.cut.holds(name)}
        assert row.weights + sum(p.numel() for n, p in unet.named_parameters() if not row.cut.holds(n)) == total
        assert row.adapter == kept_size(unet, row.cut, 2, TARGETS)
        if row.cut.depth % 3 == 0:
            with attached(unet, Diffusion(rank=2, targets=",".join(kept)), 0, "kept") as parameters:
                assert sum(p.numel() for p in parameters) == row.adapter
                assert removed_weights(unet, row.cut) == row.weights


def test_a_cut_that_leaves_no_layer_is_refused() -> None:
    unet = net("tiny")
    assert [row.cut.depth for row in table(unet, 4, TARGETS)] == [0, 1, 2, 3]
    with pytest.raises(SettingError, match="depth 4 leaves no layer of diffusion.targets"):
        kept_layers(unet, cut_at(unet, 4), TARGETS)


def test_names_are_whole() -> None:
    cut = cut_at(net("sd1"), 3)
    assert cut.holds("mid_block") and cut.holds("mid_block.resnets.0.conv1.weight")
    assert cut.holds("up_blocks.0.upsamplers.0.conv.bias")
    assert not any(map(cut.holds, ("mid_blocks", "up_blocks.0", "up_blocks.1.resnets.0", "down_blocks.2.resnets.1", "conv_in")))


def test_the_embedded_layout(glyph_sized: Foundation) -> None:
    rows = table(glyph_sized.pipe.unet, 8, TARGETS)
    assert [row.cut.shape(8) for row in rows] == [(96, 4, 4), (96, 4, 4), (96, 8, 8), (48, 8, 8)]
    assert [row.weights for row in rows] == [568_608, 1_400_640, 1_943_568, 2_200_704]
    assert balanced_depth(glyph_sized.pipe.unet, TARGETS) == 0


@pytest.mark.parametrize("size", [15, 17, 64])
def test_odd_latents_are_halved_as_convolutions_do(size: int) -> None:
    half = nn.Conv2d(1, 1, 3, stride=2, padding=1)(torch.zeros(1, 1, size, size)).shape[-1]
    assert cut_at(net("tiny"), 2).shape(size) == (64, half, half)


def transformer() -> nn.Module:
    from diffusers import DiTTransformer2DModel

    with torch.device("meta"):
        return DiTTransformer2DModel(num_layers=1, num_attention_heads=1, attention_head_dim=8, norm_num_groups=1)


def multimodal() -> nn.Module:
    from diffusers import SD3Transformer2DModel

    with torch.device("meta"):
        return SD3Transformer2DModel(num_layers=1, num_attention_heads=1, attention_head_dim=8, caption_projection_dim=8)


@pytest.mark.parametrize("make", [transformer, multimodal, lambda: nn.Linear(2, 2)], ids=["dit", "mmdit", "linear"])
def test_other_backbones_are_refused_with_the_reason(make: Any) -> None:
    model = make()
    with pytest.raises(SettingError) as caught:
        check_cuttable(model)
    text = str(caught.value)
    assert type(model).__name__ in text and "skips" in text and "diffusion.trainer = 'lora'" in text and "\n" not in text


def test_blocks_with_other_skips_are_refused() -> None:
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel(
            block_out_channels=(32, 64), down_block_types=("KDownBlock2D", "KCrossAttnDownBlock2D"),
            up_block_types=("KCrossAttnUpBlock2D", "KUpBlock2D"), mid_block_type=None, cross_attention_dim=8,
        )  # fmt: skip
    with pytest.raises(SettingError, match="KCrossAttnDownBlock2D"):
        deepest(unet)


def test_a_net_without_a_middle_is_refused() -> None:
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel(**{**LAYOUTS["tiny"], "mid_block_type": None})
    with pytest.raises(SettingError, match="no middle block"):
        cut_at(unet, 0)
