"""Adapters: their exact size, what they may change, and the file that diffusers reads."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from fedwarm.core.seeds import generator
from fedwarm.diffusion.foundation import Foundation, load_foundation
from fedwarm.diffusion.lora import (
    adapter_size,
    adapter_state,
    attached,
    check_finite,
    first_matrices,
    load_adapter,
    save_adapter,
    targeted,
    trainable,
)
from fedwarm.diffusion.sampling import sample
from fedwarm.diffusion.settings import Diffusion
from fedwarm.settings.fields import SettingError

TARGETS = Diffusion().targets
SD1: dict[str, Any] = {"cross_attention_dim": 768, "attention_head_dim": 8}
SD2: dict[str, Any] = {"cross_attention_dim": 1024, "attention_head_dim": [5, 10, 20, 20], "use_linear_projection": True}
Fill = Callable[[dict[str, Tensor]], dict[str, Tensor]]
Digest = Callable[[nn.Module], str]


def full_size(layout: dict[str, Any]) -> Any:
    """The U-Net of Stable Diffusion 1.x or 2.x without memory for its numbers."""
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel(sample_size=64, block_out_channels=(320, 640, 1280, 1280), layers_per_block=2, **layout)
    return unet.requires_grad_(False)


@torch.no_grad()
def output(unet: nn.Module, width: int) -> Tensor:
    """What the U-Net says about sixteen fixed inputs."""
    draws = generator(0, "probe")
    latents, context = torch.randn(16, 4, 8, 8, generator=draws), torch.randn(16, 20, width, generator=draws)
    predicted: Tensor = unet(latents, torch.tensor(300), context).sample
    return predicted


@pytest.fixture
def unet(foundation: Foundation) -> Any:
    return foundation.pipe.unet


@pytest.mark.parametrize(
    ("layout", "total", "sizes"),
    [
        (SD1, 859_520_964, {1: 199_296, 4: 797_184, 8: 1_594_368, 16: 3_188_736}),
        (SD2, 865_910_724, {1: 207_488, 4: 829_952}),
    ],
    ids=["sd1", "sd2"],
)
def test_size_of_a_full_size_adapter(layout: dict[str, Any], total: int, sizes: dict[int, int]) -> None:
    unet = full_size(layout)
    assert sum(p.numel() for p in unet.parameters()) == total
    assert {rank: adapter_size(unet, rank, TARGETS) for rank in sizes} == sizes
    assert len(targeted(unet, TARGETS)) == 128
    with attached(unet, Diffusion(rank=4), 0, "size") as parameters:
        assert len(parameters) == 256
        assert sum(p.numel() for p in parameters) == sizes[4]
        assert {p.dtype for p in parameters} == {torch.float32}
    assert sum(p.numel() for p in unet.parameters()) == total


def test_bytes_of_the_paper_scale_adapter() -> None:
    unet = full_size(SD1)
    payload = 4 * adapter_size(unet, 4, TARGETS)
    assert payload == 3_188_736
    assert payload + 128 * 2 * len(targeted(unet, TARGETS)) == 3_221_504


@pytest.mark.parametrize("rank", [1, 4, 7])
@pytest.mark.parametrize("targets", [TARGETS, "to_q, to_v", "attn2.to_k", "proj,2"])
def test_size_formula_counts_what_trains(unet: Any, settings: Diffusion, rank: int, targets: str) -> None:
    layers = targeted(unet, targets)
    expected = adapter_size(unet, rank, targets)
    with attached(unet, dataclasses.replace(settings, rank=rank, targets=targets), 0, "size") as parameters:
        state = adapter_state(unet)
        assert sum(p.numel() for p in parameters) == sum(t.numel() for t in state.values()) == expected
        assert len(parameters) == len(state) == 2 * len(layers)
        for name, layer in layers.items():
            assert state[f"{name}.lora_A.weight"].shape == (rank, layer.in_features)
            assert state[f"{name}.lora_B.weight"].shape == (layer.out_features, rank)


def test_only_the_adapter_trains(unet: Any, settings: Diffusion) -> None:
    layers = targeted(unet, TARGETS)
    assert trainable(unet) == {}
    with attached(unet, settings, 0, "train") as parameters:
        expected = {f"{layer}.lora_{side}.fedwarm.weight" for layer in layers for side in "AB"}
        assert trainable(unet).keys() == expected
        assert {id(p) for p in parameters} == {id(p) for p in trainable(unet).values()}
    assert trainable(unet) == {}


def test_targets_match_whole_names(unet: Any) -> None:
    everything = targeted(unet, TARGETS)
    assert all(name.endswith((".to_q", ".to_k", ".to_v", ".to_out.0")) for name in everything)
    assert targeted(unet, "to_q").keys() < everything.keys()
    with pytest.raises(SettingError, match="'o_q'"):
        targeted(unet, "o_q")


@pytest.mark.parametrize("targets", ["to_x", "to_q,to_x", "conv_in", "to_q,to_kk"])
def test_a_target_that_names_no_layer_is_refused(unet: Any, settings: Diffusion, digest: Digest, targets: str) -> None:
    before = digest(unet)
    with pytest.raises(SettingError, match=repr(targets.split(",")[-1])):
        adapter_size(unet, 4, targets)
    with pytest.raises(SettingError, match=repr(targets.split(",")[-1])), attached(unet, _with(settings, targets), 0, "none"):
        pass
    assert digest(unet) == before


def _with(settings: Diffusion, targets: str) -> Diffusion:
    return dataclasses.replace(settings, targets=targets)


@pytest.mark.parametrize("targets", ["", " , "])
def test_no_target_at_all_is_refused(unet: Any, settings: Diffusion, targets: str) -> None:
    with pytest.raises(SettingError, match=r"diffusion\.targets"), attached(unet, _with(settings, targets), 0, "none"):
        pass


def test_the_unet_is_as_before_after_the_block(unet: Any, settings: Diffusion, digest: Digest, random_adapter: Fill) -> None:
    before, types, said = digest(unet), {n: type(m) for n, m in unet.named_modules()}, output(unet, 16)
    for _ in range(2):
        with attached(unet, settings, 0, "twice"):
            load_adapter(unet, random_adapter(adapter_state(unet)))
            assert (output(unet, 16) - said).abs().max() > 0.1
        assert digest(unet) == before
        assert {n: type(m) for n, m in unet.named_modules()} == types
        assert torch.equal(output(unet, 16), said)


def test_an_error_in_the_block_restores_too(unet: Any, settings: Diffusion, digest: Digest) -> None:
    before = digest(unet)
    with pytest.raises(KeyboardInterrupt), attached(unet, settings, 0, "error"):
        raise KeyboardInterrupt
    assert digest(unet) == before
    with attached(unet, settings, 0, "error") as parameters:
        assert len(parameters) == 2 * 4 * 14


def test_a_fresh_adapter_is_a_function_of_its_keys(unet: Any, settings: Diffusion) -> None:
    states = []
    world = torch.get_rng_state()
    for seed, key in ((0, "a"), (0, "a"), (1, "a"), (0, "b")):
        torch.rand(1)
        here = torch.get_rng_state()
        with attached(unet, settings, seed, key):
            states.append(adapter_state(unet))
        assert torch.equal(torch.get_rng_state(), here)
    torch.set_rng_state(world)
    for name, first in states[0].items():
        assert torch.equal(first, states[1][name])
        assert bool((first == 0).all()) == ("lora_B" in name)
        for other in states[2:]:
            assert torch.equal(first, other[name]) == ("lora_B" in name)


def test_a_fresh_adapter_changes_nothing(foundation: Foundation, settings: Diffusion, sentences: list[str]) -> None:
    unet = foundation.pipe.unet
    bare = output(unet, 16), sample(foundation, sentences, range(10), settings, 32)
    with attached(unet, settings, 0, "fresh"):
        assert (output(unet, 16) - bare[0]).abs().max() == 0
        assert torch.equal(sample(foundation, sentences, range(10), settings, 32), bare[1])


def test_the_product_is_scaled_by_alpha_over_rank(unet: Any, settings: Diffusion, random_adapter: Fill) -> None:
    with attached(unet, settings, 0, "merge"):
        state = {name: t / 3 for name, t in random_adapter(adapter_state(unet)).items()}
        load_adapter(unet, state)
        adapted = output(unet, 16)
    merged = copy.deepcopy(unet).double()
    for name, layer in targeted(merged, TARGETS).items():
        product = state[f"{name}.lora_B.weight"].double() @ state[f"{name}.lora_A.weight"].double()
        layer.weight.data += settings.alpha / settings.rank * product
    assert settings.alpha != settings.rank and (adapted - output(unet, 16)).abs().max() > 0.05
    torch.testing.assert_close(adapted, output(merged.float(), 16), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("rank", "alpha", "targets"), [(4, 8.0, TARGETS), (3, 3.0, "to_q,to_v")])
def test_diffusers_reads_the_file(
    unet: Any, pipeline_folder: Path, random_adapter: Fill, tmp_path: Path, rank: int, alpha: float, targets: str
) -> None:
    from diffusers import StableDiffusionPipeline

    with attached(unet, Diffusion(rank=rank, alpha=alpha, targets=targets), 0, "file"):
        state = random_adapter(adapter_state(unet))
        load_adapter(unet, state)
        ours = output(unet, 16)
    path = save_adapter(tmp_path / "client-0", state, rank, alpha, targets)
    assert path == tmp_path / "client-0" / "pytorch_lora_weights.safetensors"
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    fresh = StableDiffusionPipeline.from_pretrained(pipeline_folder)
    assert not torch.allclose(output(fresh.unet, 16), ours, atol=1e-2)
    fresh.load_lora_weights(path.parent)
    assert (output(fresh.unet, 16) - ours).abs().max() < 1e-6


def test_an_adapter_is_written_once_and_says_what_it_was_tuned_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[Path] = []
    save = safetensors.torch.save_file

    def counted(tensors: dict[str, Tensor], path: Path, told: dict[str, str]) -> None:
        written.append(path)
        save(tensors, path, told)

    monkeypatch.setattr(safetensors.torch, "save_file", counted)
    path = save_adapter(tmp_path / "client-0", {"down.to_q.lora_A.weight": torch.ones(2, 2)}, 2, 4.0, "to_q", None, "abc")
    with safetensors.safe_open(path, "pt") as file:
        told = file.metadata()
    assert len(written) == 1 and [p.name for p in path.parent.iterdir()] == [path.name]
    assert told["foundation"] == "abc" and json.loads(told["lora_adapter_metadata"])["unet.r"] == 2


def test_what_goes_in_comes_out(unet: Any, settings: Diffusion, random_adapter: Fill) -> None:
    with attached(unet, settings, 0, "round"):
        state = random_adapter(adapter_state(unet))
        load_adapter(unet, state)
        back = adapter_state(unet)
        assert list(back) == sorted(state)
        assert all(torch.equal(back[name], state[name]) for name in state)
        for parameter in trainable(unet).values():
            parameter.data.zero_()
        assert all(torch.equal(back[name], state[name]) for name in state), "the state must be a copy"


def _renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.replace("to_q", "to_z"): t for name, t in state.items()}


def _with_extra(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {**state, "conv_in.weight": torch.zeros(1)}


def _with_a_gap(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return dict(list(state.items())[1:])


def _of_other_rank(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: t[:2] if "lora_A" in name else t[:, :2] for name, t in state.items()}


@pytest.mark.parametrize("spoil", [_renamed, _with_extra, _with_a_gap, _of_other_rank, lambda state: {}])
def test_a_foreign_adapter_is_refused(unet: Any, settings: Diffusion, random_adapter: Fill, spoil: Fill) -> None:
    with attached(unet, settings, 0, "foreign"):
        before = adapter_state(unet)
        with pytest.raises(ValueError, match="does not fit this foundation"):
            load_adapter(unet, spoil(random_adapter(before)))
        after = adapter_state(unet)
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_none_are_refused(value: float) -> None:
    good = {"a": torch.zeros(3), "b": torch.ones(2, 2)}
    check_finite(good)
    good["b"][1, 0] = value
    with pytest.raises(FloatingPointError, match=r"^b holds NaN or infinity"):
        check_finite(good)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_first_matrices_are_the_same_in_every_precision(settings: Diffusion, foundation: Foundation, precision: str) -> None:
    exact = first_matrices(foundation, settings, 5, 2)
    half = first_matrices(load_foundation(dataclasses.replace(settings, precision=precision), "cpu"), settings, 5, 2)
    assert exact.keys() == half.keys() and all(torch.equal(exact[name], half[name]) for name in exact)


def test_in_half_precision_an_adapter_takes_its_input_as_it_comes(unet: Any, settings: Diffusion) -> None:
    """So no wider copy of it is kept for the gradient; its matrices, and their gradients, are float32 still."""
    narrow, seen = copy.deepcopy(unet).bfloat16(), set[torch.dtype]()
    with attached(narrow, settings, 0, "x") as parameters:
        for name, module in narrow.named_modules():
            if name.endswith(("lora_A.fedwarm", "lora_B.fedwarm")):
                module.register_forward_pre_hook(lambda module, given: seen.add(given[0].dtype))
        noisy = torch.ones(1, narrow.config.in_channels, 8, 8, dtype=torch.bfloat16)
        context = torch.ones(1, 20, narrow.config.cross_attention_dim, dtype=torch.bfloat16)
        narrow(noisy, torch.ones(1), context).sample.sum().backward()
        assert seen == {torch.bfloat16}
        assert {p.dtype for p in parameters} == {p.grad.dtype for p in parameters if p.grad is not None} == {torch.float32}
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in parameters)
