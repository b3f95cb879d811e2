"""The hollowed forward pass: the whole net's numbers, its kept layers' gradients, and none of its core."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedwarm.core.seeds import generator, initialisation
from fedwarm.diffusion.foundation import Foundation
from fedwarm.diffusion.lora import adapter_state, attached, load_adapter, trainable
from fedwarm.diffusion.settings import Diffusion
from fedwarm.diffusion.tuners.hollowed.cuts import Cut, cut_at, cuts, deepest, kept_layers, removed_weights
from fedwarm.diffusion.tuners.hollowed.net import HollowedUNet, core_output

Fill = Callable[[dict[str, Tensor]], dict[str, Tensor]]
Inputs = tuple[Tensor, Tensor, Tensor]
TARGETS = Diffusion().targets
FOUR = {"block_out_channels": (16, 16, 32, 32), "layers_per_block": 2}
SIMPLE = ("SimpleCrossAttnDownBlock2D", "ResnetDownsampleBlock2D"), ("ResnetUpsampleBlock2D", "SimpleCrossAttnUpBlock2D")
LAYOUTS: dict[str, dict[str, Any]] = {
    "sd1": FOUR,
    "sd2": {**FOUR, "use_linear_projection": True, "attention_head_dim": [2, 2, 4, 4]},
    "toy": {
        "block_out_channels": (8, 16, 32), "layers_per_block": 1,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    },
    "attention": {
        "block_out_channels": (8, 16), "layers_per_block": 2, "down_block_types": ("CrossAttnDownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "CrossAttnUpBlock2D"),
    },
    "simple": {
        "block_out_channels": (8, 16), "layers_per_block": 1, "down_block_types": SIMPLE[0], "up_block_types": SIMPLE[1],
        "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
    },
}  # fmt: skip


def random_net(layout: str) -> Any:
    """A small net of a layout, frozen."""
    from diffusers import UNet2DConditionModel

    common = {"sample_size": 16, "cross_attention_dim": 8, "attention_head_dim": 4, "norm_num_groups": 4}
    with initialisation(0, "hollow", layout):
        net = UNet2DConditionModel(**{**common, **LAYOUTS[layout]})
    return net.requires_grad_(False).eval()


def inputs_of(unet: Any, batch: int = 3, size: int = 0, key: str = "inputs") -> Inputs:
    draws, dtype = generator(0, key), next(unet.parameters()).dtype
    side = size or unet.config.sample_size
    noisy = torch.randn(batch, unet.config.in_channels, side, side, generator=draws)
    context = torch.randn(batch, 5, unet.config.cross_attention_dim, generator=draws)
    return noisy.to(dtype), torch.randint(1000, (batch,), generator=draws), context.to(dtype)


@torch.no_grad()
def test_a_net_of_classes_is_told_them_in_both_passes() -> None:
    """The same forward pass as diffusers', with whatever else it takes."""
    from diffusers import UNet2DConditionModel

    with initialisation(0, "hollow", "classes"):
        net = UNet2DConditionModel(
            sample_size=16, cross_attention_dim=8, attention_head_dim=4, norm_num_groups=4, num_class_embeds=3, **FOUR
        )
    unet = net.requires_grad_(False).eval()
    inputs, labels = inputs_of(unet), torch.tensor([0, 2, 1])
    whole = unet(*inputs, class_labels=labels).sample
    for cut in cuts(unet, TARGETS):
        said = core_output(unet, cut, *inputs, class_labels=labels)
        assert torch.equal(HollowedUNet(unet, cut)(*inputs, said, class_labels=labels), whole)
        assert not torch.equal(core_output(unet, cut, *inputs, class_labels=labels.flip(0)), said)


@torch.no_grad()
def differences(unet: Any, batch: int = 3, size: int = 0, *, residual: bool = False) -> list[float]:
    """At each depth, how far the hollowed net is from the whole."""
    inputs = inputs_of(unet, batch, size)
    whole, found = unet(*inputs).sample, []
    for depth in range(deepest(unet) + 1):
        cut = cut_at(unet, depth)
        if residual and cut.channels_in != cut.channels_out:
            continue
        said = core_output(unet, cut, *inputs, residual=residual)
        assert said.shape == (batch, *cut.shape(size or unet.config.sample_size))
        predicted = HollowedUNet(unet, cut, residual)(*inputs, said)
        found.append((predicted.double() - whole.double()).abs().max().item())
    return found


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_hollowed_net_says_what_the_whole_net_says(layout: str) -> None:
    unet = random_net(layout)
    for batch in (1, 3):
        assert differences(unet, batch) == [0.0] * (deepest(unet) + 1)


@pytest.mark.parametrize("batch", [1, 16])
def test_so_does_the_embedded_layout(glyph_sized: Foundation, batch: int) -> None:
    assert differences(glyph_sized.pipe.unet, batch) == [0.0] * 4


@pytest.mark.parametrize("size", [14, 20])
def test_latents_that_do_not_halve_evenly(size: int) -> None:
    unet = random_net("sd1")
    assert differences(unet, 2, size) == [0.0] * (deepest(unet) + 1)


def test_half_precision() -> None:
    unet = random_net("toy").half()
    assert max(differences(unet)) < 1e-3


@pytest.mark.parametrize("layout", ["sd1", "toy", "simple"])
def test_the_residual_is_as_good_where_shapes_are_equal(layout: str) -> None:
    """In double precision, as the difference to h is rounded once more."""
    unet = random_net(layout).double()
    found = differences(unet, residual=True)
    assert 0 < len(found) <= deepest(unet) and max(found) <= 1e-13
    uneven = next(c for c in (cut_at(unet, d) for d in range(deepest(unet) + 1)) if c.channels_in != c.channels_out)
    with pytest.raises(ValueError, match=rf"depth {uneven.depth}: h has {uneven.channels_in} channels"):
        HollowedUNet(unet, uneven, residual=True)


def test_a_fresh_adapter_changes_nothing() -> None:
    unet = random_net("sd1")
    inputs = inputs_of(unet)
    for cut in cuts(unet, TARGETS):
        with torch.no_grad():
            whole, said = unet(*inputs).sample, core_output(unet, cut, *inputs)
        own = Diffusion(rank=2, targets=",".join(kept_layers(unet, cut, TARGETS)))
        with attached(unet, own, 0, "fresh"), torch.no_grad():
            assert torch.equal(HollowedUNet(unet, cut)(*inputs, said), whole)


def test_another_answer_is_another_prediction() -> None:
    """So what was cached is what counts: neither the core nor the order of skips is by chance without effect."""
    unet = random_net("sd1")
    inputs = inputs_of(unet)
    with torch.no_grad():
        for depth in range(deepest(unet) + 1):
            cut = cut_at(unet, depth)
            net, said = HollowedUNet(unet, cut), core_output(unet, cut, *inputs)
            assert (net(*inputs, said.flip(0)) - net(*inputs, said)).abs().max() > 1e-4


def test_the_core_is_not_in_the_net_and_the_rest_keeps_its_names() -> None:
    unet = random_net("sd2")
    whole = dict(unet.named_parameters())
    for depth in range(deepest(unet) + 1):
        cut = cut_at(unet, depth)
        left = dict(HollowedUNet(unet, cut).named_parameters(prefix=""))
        assert left.keys() == {f"net.{name}" for name in whole if not cut.holds(name)}
        assert all(parameter is whole[name.removeprefix("net.")] for name, parameter in left.items())
        assert sum(p.numel() for p in left.values()) == sum(p.numel() for p in whole.values()) - removed_weights(unet, cut)


def test_the_whole_net_is_not_changed() -> None:
    unet = random_net("toy")
    modules = {name: (id(m), list(m._modules)) for name, m in unet.named_modules()}
    inputs = inputs_of(unet)
    with torch.no_grad():
        before = unet(*inputs).sample
        for depth in range(deepest(unet) + 1):
            HollowedUNet(unet, cut_at(unet, depth))(*inputs, core_output(unet, cut_at(unet, depth), *inputs))
        assert torch.equal(unet(*inputs).sample, before)
    assert {name: (id(m), list(m._modules)) for name, m in unet.named_modules()} == modules
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in unet.modules())


def test_the_core_is_asked_in_evaluation_mode_only() -> None:
    unet = random_net("toy")
    with pytest.raises(ValueError, match="evaluation mode"):
        core_output(unet.train(), cut_at(unet, 0), *inputs_of(unet))


def test_asking_stops_at_the_core_and_leaves_no_hook_after_an_error() -> None:
    unet = random_net("toy")
    seen: list[str] = []
    handle = unet.conv_out.register_forward_hook(lambda *_: seen.append("end"))
    core_output(unet, cut_at(unet, 1), *inputs_of(unet))
    handle.remove()
    assert not seen
    noisy, steps, context = inputs_of(unet)
    with pytest.raises(RuntimeError):
        core_output(unet, cut_at(unet, 1), noisy, steps, context[:, :, :3])
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in unet.modules())


# Gradients


@contextmanager
def held(unet: Any, cut: Cut, said: Tensor) -> Iterator[None]:
    """The whole net, its core's answer replaced by a given one."""

    def replace(module: nn.Module, inputs: Any, output: Any) -> Any:
        return (said,) if isinstance(output, tuple) else said

    hook = unet.get_submodule(cut.leaves).register_forward_hook(replace)
    try:
        yield
    finally:
        hook.remove()


def gradients(module: nn.Module, predicted: Tensor) -> dict[str, Tensor]:
    """Of a fixed loss by the matrices' names."""
    target = torch.randn(predicted.shape, generator=generator(0, "target")).to(predicted)
    F.mse_loss(predicted, target).backward()
    found = {n: torch.zeros_like(p) if p.grad is None else p.grad.clone() for n, p in trainable(module).items()}
    for parameter in module.parameters():
        parameter.grad = None
    return found


@pytest.mark.long
@pytest.mark.parametrize("layout", ["sd1", "toy"])
def test_gradients_are_the_whole_nets_with_the_middle_frozen(layout: str, random_adapter: Fill) -> None:
    """At random matrices, in the net whose core says what was cached."""
    unet = random_net(layout)
    inputs = inputs_of(unet)
    for cut in cuts(unet, TARGETS):
        said = core_output(unet, cut, *inputs)
        own = Diffusion(rank=2, targets=",".join(kept_layers(unet, cut, TARGETS)))
        with attached(unet, own, 0, "gradients"):
            load_adapter(unet, random_adapter(adapter_state(unet)))
            net = HollowedUNet(unet, cut)
            ours = gradients(net, net(*inputs, said))
            assert not any(p.grad is not None for name, p in unet.named_parameters() if cut.holds(name))
            with held(unet, cut, said):
                theirs = gradients(unet, unet(*inputs).sample)
        assert ours.keys() == {f"net.{name}" for name in theirs}
        for name, gradient in theirs.items():
            assert gradient.norm() > 0
            torch.testing.assert_close(ours[f"net.{name}"], gradient, rtol=1e-4, atol=1e-7)


def test_where_the_core_is_live_only_the_encoder_differs() -> None:
    """At B = 0 the whole net predicts the same; its decoder has the same gradients, its encoder also those through the core."""
    unet = random_net("sd1")
    inputs, cut = inputs_of(unet), cut_at(unet, 3)
    said = core_output(unet, cut, *inputs)
    own = Diffusion(rank=2, targets=",".join(kept_layers(unet, cut, TARGETS)))
    with attached(unet, own, 0, "live"):
        net = HollowedUNet(unet, cut)
        ours, theirs = gradients(net, net(*inputs, said)), gradients(unet, unet(*inputs).sample)
    for name, gradient in theirs.items():
        mine = ours[f"net.{name}"]
        if ".lora_B." in name:
            assert mine.norm() > 0
            near = torch.allclose(mine, gradient, rtol=1e-4, atol=1e-7)
            assert near == name.startswith("up_blocks"), name
        else:
            assert not gradient.any() and not mine.any()


@pytest.mark.parametrize("residual", [False, True])
def test_the_last_kept_encoder_layer_is_reached_through_its_skip_alone(random_adapter: Fill, residual: bool) -> None:
    unet = random_net("toy")
    inputs, cut = inputs_of(unet), cut_at(unet, 0)
    said = core_output(unet, cut, *inputs, residual=residual)

    def without_skip(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        kept = args[0].clone()
        kept[:, cut.channels_out :] = 0
        return kept, *args[1:]

    with attached(unet, Diffusion(rank=2, targets=",".join(kept_layers(unet, cut, TARGETS))), 0, "skip"):
        load_adapter(unet, random_adapter(adapter_state(unet)))
        net = HollowedUNet(unet, cut, residual)
        hook = unet.up_blocks[0].resnets[0].register_forward_pre_hook(without_skip)
        found = gradients(net, net(*inputs, said))
        hook.remove()
    last = [g for name, g in found.items() if "net.down_blocks.2." in name]
    assert len(last) == 16
    assert all(bool(g.any()) == residual for g in last)
    assert all(g.any() for name, g in found.items() if "net.down_blocks.1." in name)


def test_gradients_are_central_differences() -> None:
    unet = copy.deepcopy(random_net("toy")).double()
    inputs, cut = inputs_of(unet, 2), cut_at(unet, 1)
    said = core_output(unet, cut, *inputs)
    draws = generator(0, "differences")
    with attached(unet, Diffusion(rank=2, targets=",".join(kept_layers(unet, cut, TARGETS))), 0, "differences"):
        for parameter in trainable(unet).values():
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=draws, dtype=torch.float64)
        net = HollowedUNet(unet, cut)
        target = torch.randn(inputs[0].shape, generator=generator(0, "target")).double()
        found = gradients(net, net(*inputs, said))
        for name, parameter in trainable(net).items():
            if ".lora_B." not in name:
                continue
            flat, step = parameter.data.view(-1), 1e-5
            at = int(found[name].abs().argmax())
            losses = []
            for sign in (1, -1):
                flat[at] += sign * step
                with torch.no_grad():
                    losses.append(F.mse_loss(net(*inputs, said), target).item())
                flat[at] -= sign * step
            slope = (losses[0] - losses[1]) / (2 * step)
            assert slope == pytest.approx(found[name].view(-1)[at].item(), rel=1e-3), name


def test_checkpoints_change_no_gradient(random_adapter: Fill) -> None:
    unet = random_net("sd1")
    inputs, cut = inputs_of(unet), cut_at(unet, 3)
    said = core_output(unet, cut, *inputs)
    with attached(unet, Diffusion(rank=2, targets=",".join(kept_layers(unet, cut, TARGETS))), 0, "checkpoints"):
        load_adapter(unet, random_adapter(adapter_state(unet)))
        net = HollowedUNet(unet, cut)
        plain = gradients(net, net(*inputs, said))
        net.net.enable_gradient_checkpointing()
        saving = gradients(net, net(*inputs, said))
        net.net.disable_gradient_checkpointing()
    assert not unet.is_gradient_checkpointing
    for name, gradient in plain.items():
        torch.testing.assert_close(saving[name], gradient, rtol=1e-5, atol=1e-8)
