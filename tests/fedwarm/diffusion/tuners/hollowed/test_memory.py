"""The count of what training takes, against what autograd really keeps, and the depth that a budget buys."""

from __future__ import annotations

import dataclasses
from functools import lru_cache
from typing import Any

import pytest
import torch
from torch import Tensor

from fedwarm.diffusion.foundation import Foundation
from fedwarm.diffusion.lora import attached
from fedwarm.diffusion.settings import Diffusion
from fedwarm.diffusion.tuners.hollowed.cuts import cut_at, cuts, kept_layers
from fedwarm.diffusion.tuners.hollowed.memory import MB, affordable_depth, footprint, twin
from fedwarm.diffusion.tuners.hollowed.net import HollowedUNet
from fedwarm.settings.fields import SettingError

SETTINGS = Diffusion(rank=4, lora_batch_size=3)


def kept_by_autograd(unet: Any, depth: int | None, batch: int) -> int:
    """Bytes of the distinct tensors that a real forward pass keeps for its backward pass, weights left out."""
    cut = None if depth is None else cut_at(unet, depth)
    layers = ",".join(kept_layers(unet, cut, SETTINGS.targets))
    with attached(unet, dataclasses.replace(SETTINGS, targets=layers), 0, "count"):
        net = unet if cut is None else HollowedUNet(unet, cut)
        weights = {p.untyped_storage().data_ptr() for p in net.parameters()}
        held: list[Tensor] = []
        inputs = [torch.randn(batch, 4, 8, 8), torch.arange(batch), torch.randn(batch, 20, unet.config.cross_attention_dim)]
        if cut is not None:
            inputs.append(torch.randn(batch, *cut.shape(8)))
        with torch.autograd.graph.saved_tensors_hooks(lambda t: held.append(t) or t, lambda t: t):  # type: ignore[func-returns-value]
            net(*inputs)
        sizes = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in held}
        return sum(size for place, size in sizes.items() if place not in weights)


@pytest.mark.parametrize("depth", [None, 0, 1, 2, 3])
def test_activations_are_those_that_autograd_keeps(glyph_sized: Foundation, depth: int | None) -> None:
    unet = glyph_sized.pipe.unet
    cut = None if depth is None else cut_at(unet, depth)
    counted = footprint(unet, SETTINGS, cut, torch.float32, tokens=20)
    assert counted.activations == pytest.approx(kept_by_autograd(unet, depth, 3), rel=0.01)
    trained = 4 * sum(x.in_features + x.out_features for x in kept_layers(unet, cut, SETTINGS.targets).values())
    left = sum(p.numel() for n, p in unet.named_parameters() if cut is None or not cut.holds(n))
    assert (counted.weights, counted.trained) == (4 * left, 4 * 4 * trained)
    assert counted.total == counted.weights + counted.trained + counted.activations


def test_counting_touches_no_number(glyph_sized: Foundation) -> None:
    unet = glyph_sized.pipe.unet
    world, before = torch.get_rng_state(), unet.conv_in.weight.clone()
    footprint(unet, SETTINGS, cut_at(unet, 1), torch.float16)
    assert torch.equal(torch.get_rng_state(), world) and torch.equal(unet.conv_in.weight, before)
    copy = twin(unet, torch.float16)
    assert all(p.is_meta and p.dtype == torch.float16 for p in copy.parameters())
    assert [n for n, _ in copy.named_parameters()] == [n for n, _ in unet.named_parameters()]


@lru_cache
def full_size() -> Any:
    """Stable Diffusion 1's U-Net for 512 x 512 pixels, without numbers."""
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        return UNet2DConditionModel(
            sample_size=64, block_out_channels=(320, 640, 1280, 1280), layers_per_block=2, cross_attention_dim=768
        )


def total(dtype: torch.dtype, depth: int | None = None, rank: int = 1, *, full: bool = False) -> int:
    cut = None if depth is None else cut_at(full_size(), depth)
    return footprint(full_size(), Diffusion(rank=rank, lora_batch_size=1), cut, dtype, full=full).total


@pytest.mark.long
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_order_at_full_size(dtype: torch.dtype) -> None:
    hollowed, thin, thick, full = total(dtype, 3, 4), total(dtype), total(dtype, rank=128), total(dtype, full=True)
    assert hollowed < thin <= thick < full
    weights = 859_520_964 * dtype.itemsize
    assert full > 4 * weights and thin > weights
    if dtype == torch.float32:
        assert thick < 1.1 * thin
    assert thin - hollowed >= 336_303_360 * dtype.itemsize


def test_deeper_takes_less(glyph_sized: Foundation) -> None:
    unet = glyph_sized.pipe.unet
    totals = [footprint(unet, SETTINGS, cut, torch.float32).total for cut in (None, *cuts(unet, SETTINGS.targets))]
    assert totals == sorted(totals, reverse=True) and len(set(totals)) == 5


@pytest.mark.long
def test_the_least_depth_that_fits(glyph_sized: Foundation) -> None:
    unet = glyph_sized.pipe.unet
    settings = dataclasses.replace(SETTINGS, lora_batch_size=16)
    needs = [footprint(unet, settings, cut, torch.float32).total for cut in cuts(unet, settings.targets)]
    for depth, need in enumerate(needs):
        enough = int(need / MB) + 1
        found = affordable_depth(unet, settings, torch.float32, max(enough, 10))
        assert found == depth or needs[depth] < 10 * MB
    assert affordable_depth(unet, settings, torch.float32, 10_000) == 0
    assert affordable_depth(unet, settings, torch.float32, 0) == 0


def test_a_budget_that_buys_nothing_is_refused(glyph_sized: Foundation) -> None:
    unet = glyph_sized.pipe.unet
    with pytest.raises(SettingError, match="hollowed.memory-budget-mb = 5 is less than the whole U-Net takes"):
        affordable_depth(unet, SETTINGS, torch.float32, 5)
    with pytest.raises(SettingError, match="too little at any depth.* diffusion.lora-batch-size = 400"):
        affordable_depth(unet, dataclasses.replace(SETTINGS, lora_batch_size=400), torch.float32, 20)
