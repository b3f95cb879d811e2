"""Hollowed tuning from end to end: which matrices, from which bits, with what on the disk, and a foundation as before."""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor, nn

from fedwarm.core.progress import Tick, listening
from fedwarm.core.seeds import generator
from fedwarm.diffusion.foundation import Foundation, load_foundation
from fedwarm.diffusion.lora import attached, first_matrices, load_adapter, save_adapter, targets_of
from fedwarm.diffusion.sampling import sample
from fedwarm.diffusion.settings import Diffusion
from fedwarm.diffusion.tuners.hollowed.cuts import cut_at, kept_layers, kept_size, removed_weights
from fedwarm.diffusion.tuners.hollowed.memory import affordable_depth
from fedwarm.diffusion.tuners.hollowed.net import HollowedUNet
from fedwarm.diffusion.tuners.hollowed.settings import AUTO, NONE, Hollowed
from fedwarm.diffusion.tuners.hollowed.tune import Job, cut_of, tune_hollowed
from fedwarm.diffusion.tuning import Tuning, to_foundation, tune_adapter
from fedwarm.settings.fields import SettingError

Pictures = tuple[Tensor, Tensor]
Swap = Callable[[Foundation, Any], Foundation]
Digest = Callable[[nn.Module], str]
Fill = Callable[[dict[str, Tensor]], dict[str, Tensor]]
Tune = Callable[..., dict[str, Tensor]]
DEFAULT = Hollowed()


@pytest.fixture
def tune(foundation: Foundation, settings: Diffusion, pictures: Pictures, sentences: list[str], tmp_path: Path) -> Tune:
    """Tune on the rendered digits; keyword arguments replace settings of either group."""

    def run(
        depth: int = 0, seed: int = 0, client: int = 0, on: Foundation = foundation, hollowed: Hollowed = DEFAULT, **changes: Any
    ) -> dict[str, Tensor]:
        chosen = dataclasses.replace(hollowed, depth=depth)
        used = dataclasses.replace(settings, **changes)
        return tune_hollowed(Tuning(on, *pictures, sentences, used, seed, client), chosen, tmp_path / "cache")

    return run


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    assert a.keys() == b.keys()
    return all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_exactly_the_kept_matrices_move_from_the_common_start(
    foundation: Foundation, settings: Diffusion, tune: Tune, tmp_path: Path, depth: int
) -> None:
    unet = foundation.pipe.unet
    cut, first = cut_at(unet, depth), first_matrices(foundation, settings, 0, 0)
    state = tune(depth)
    layers = kept_layers(unet, cut, settings.targets)
    assert state.keys() == {name for name in first if not cut.holds(name)}
    assert set(targets_of(state).split(",")) == layers.keys()
    assert sum(t.numel() for t in state.values()) == kept_size(unet, cut, settings.rank, settings.targets)
    for name, matrix in state.items():
        assert matrix.shape == first[name].shape and matrix.dtype == torch.float32 and not matrix.requires_grad
        assert not torch.equal(matrix, first[name])
        if "lora_A" in name:
            assert (matrix - first[name]).abs().max() <= 3 * settings.lora_learning_rate * 1.01
    assert list((tmp_path / "cache").iterdir()) == []


def test_no_cut_is_plain_tuning_bit_for_bit(
    foundation: Foundation, settings: Diffusion, tune: Tune, pictures: Pictures, sentences: list[str]
) -> None:
    plain = tune_adapter(Tuning(foundation, *pictures, sentences, settings, 3, 1))
    assert same(tune(NONE, seed=3, client=1), plain)
    assert same(tune(hollowed=Hollowed(depths="0,-2"), seed=3, client=1), plain)


def test_the_foundation_is_as_before(foundation: Foundation, tune: Tune, digest: Digest) -> None:
    pipe = foundation.pipe
    parts = pipe.unet, pipe.vae, pipe.text_encoder
    before = [digest(part) for part in parts], [list(map(id, part.parameters())) for part in parts]
    modules = {name: type(m) for name, m in pipe.unet.named_modules()}
    world = torch.get_rng_state()
    tune(1, gradient_checkpointing=True)
    assert torch.equal(torch.get_rng_state(), world)
    assert ([digest(part) for part in parts], [list(map(id, part.parameters())) for part in parts]) == before
    assert {name: type(m) for name, m in pipe.unet.named_modules()} == modules
    assert not any(p.requires_grad or p.grad is not None for part in parts for p in part.parameters())
    assert not any(m.training for part in parts for m in part.modules()) and not pipe.unet.is_gradient_checkpointing


@pytest.mark.parametrize("depth", [0, 2])
def test_the_core_is_gone_while_it_trains_and_only_then(foundation: Foundation, tune: Tune, depth: int) -> None:
    pipe = foundation.pipe
    cut = cut_at(pipe.unet, depth)
    whole = sum(p.numel() * p.itemsize for p in pipe.unet.parameters())
    seen: list[tuple[str, int]] = []

    def look(event: Tick) -> None:
        named = {n: p for n, p in pipe.unet.named_parameters() if ".lora_" not in n}
        seen.append((event.stage, sum(p.numel() * p.itemsize for p in named.values())))
        if event.stage == "adapter":
            assert not any(p.numel() for n, p in named.items() if cut.holds(n))
            assert not any(p.numel() for part in (pipe.vae, pipe.text_encoder) for p in part.parameters())
            assert all(p.grad is None for n, p in named.items())

    with listening(look):
        tune(depth)
    left = whole - 4 * removed_weights(pipe.unet, cut)
    assert {size for stage, size in seen if stage == "tuples"} == {whole}
    assert {size for stage, size in seen if stage == "adapter"} == {left}


def test_seed_and_client_decide_all(tune: Tune) -> None:
    first = tune(seed=3, client=1)
    torch.rand(5)
    assert same(tune(seed=3, client=1), first)
    assert not same(tune(seed=3, client=2), first)
    assert not same(tune(seed=4, client=1), first)
    assert not same(tune(seed=3, client=1, hollowed=Hollowed(cache="residual")), first)


@torch.no_grad()
def fixed_loss(foundation: Foundation, images: Tensor, labels: Tensor, sentences: list[str]) -> float:
    """Mean noise-prediction loss over four draws of noise for each image, the same each time."""
    draws = generator(0, "fixed-noise")
    latents = foundation.encode(to_foundation(images, 32)).repeat(4, 1, 1, 1)
    noise = torch.randn(latents.shape, generator=draws)
    steps = torch.randint(1000, (len(latents),), generator=draws)
    noisy = foundation.pipe.scheduler.add_noise(latents, noise, steps)
    context = foundation.embed(sentences)[labels.repeat(4)]
    return F.mse_loss(foundation.pipe.unet(noisy, steps, context).sample, noise).item()


@pytest.mark.long
@pytest.mark.parametrize(("depth", "cache"), [(0, "residual"), (1, "output")])
def test_the_whole_nets_loss_falls_after_the_transfer(
    foundation: Foundation, settings: Diffusion, tune: Tune, pictures: Pictures, sentences: list[str], depth: int, cache: str
) -> None:
    before = fixed_loss(foundation, *pictures, sentences)
    state = tune(depth, hollowed=Hollowed(cache=cache), lora_steps=40, lora_learning_rate=2e-2)
    own = dataclasses.replace(settings, targets=targets_of(state))
    with attached(foundation.pipe.unet, own, 0, "loss"):
        load_adapter(foundation.pipe.unet, state)
        assert fixed_loss(foundation, *pictures, sentences) < 0.9 * before
    assert fixed_loss(foundation, *pictures, sentences) == before


def test_the_pipelines_file_holds_exactly_the_kept_keys(
    foundation: Foundation, settings: Diffusion, tune: Tune, pipeline_folder: Path, random_adapter: Fill, tmp_path: Path
) -> None:
    from diffusers import StableDiffusionPipeline

    unet, cut = foundation.pipe.unet, cut_at(foundation.pipe.unet, 1)
    state = random_adapter(tune(1))
    targets = targets_of(state)
    draws = generator(0, "probe")
    probe = torch.randn(16, 4, 8, 8, generator=draws), torch.tensor(300), torch.randn(16, 20, 16, generator=draws)
    with attached(unet, dataclasses.replace(settings, targets=targets), 0, "file"), torch.no_grad():
        load_adapter(unet, state)
        ours = unet(*probe).sample
    path = save_adapter(tmp_path / "adapter", state, settings.rank, settings.alpha, targets)
    with safe_open(path, "pt") as file:
        held = {name.removeprefix("unet.").partition(".lora")[0] for name in file.keys()}  # noqa: SIM118
        assert len(list(file.keys())) == len(state)
    assert held == kept_layers(unet, cut, settings.targets).keys()
    assert not any(map(cut.holds, held))
    fresh = StableDiffusionPipeline.from_pretrained(pipeline_folder)
    fresh.load_lora_weights(path.parent)
    loaded = {name.partition(".lora_")[0] for name, _ in fresh.unet.named_parameters() if ".lora_" in name}
    assert loaded == held
    with torch.no_grad():
        assert (fresh.unet(*probe).sample - ours).abs().max() < 1e-6


def test_a_transferred_adapter_of_zeros_draws_the_same_images(
    foundation: Foundation, settings: Diffusion, tune: Tune, sentences: list[str]
) -> None:
    def drawn() -> str:
        return hashlib.sha256(sample(foundation, sentences, range(10), settings, 32).numpy().tobytes()).hexdigest()

    bare, state = drawn(), tune(1)
    with attached(foundation.pipe.unet, dataclasses.replace(settings, targets=targets_of(state)), 0, "zero"):
        load_adapter(foundation.pipe.unet, {n: torch.zeros_like(t) if "lora_B" in n else t for n, t in state.items()})
        assert drawn() == bare


# The cache


@pytest.mark.parametrize(("precision", "cache_dtype", "size"), [("fp32", "auto", 4), ("fp32", "float16", 2), ("bf16", "auto", 2)])
def test_bytes_and_modes_on_the_disk(
    settings: Diffusion, tune: Tune, tmp_path: Path, precision: str, cache_dtype: str, size: int
) -> None:
    on = load_foundation(dataclasses.replace(settings, precision=precision), "cpu")
    seen: dict[str, tuple[int, int]] = {}
    header: list[int] = []

    def look(event: Tick) -> None:
        if event.stage == "adapter" and event.step == 1:
            folder = tmp_path / "cache" / "hollowed-5"
            seen.update({p.name: (p.stat().st_size, p.stat().st_mode & 0o777) for p in [folder, *folder.iterdir()]})
            header.append(8 + int.from_bytes((folder / "core.safetensors").read_bytes()[:8], "little"))

    with listening(look):
        tune(2, client=5, on=on, hollowed=Hollowed(cache_dtype=cache_dtype, tuples=11))
    assert header[0] < 300 and seen["core.safetensors"] == (header[0] + 11 * 32 * 8 * 8 * size, 0o600)
    assert seen["hollowed-5"][1] == 0o700
    assert {name: mode for name, (_, mode) in seen.items() if name != "hollowed-5"} == dict.fromkeys(
        (
            "core.safetensors",
            "latents.safetensors",
            "core.safetensors.rows",
            "latents.safetensors.rows",
            "draws.safetensors",
            "weights.bin",
        ),
        0o600,
    )
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_kept_cache_says_what_the_whole_net_says(
    foundation: Foundation, settings: Diffusion, tune: Tune, sentences: list[str], tmp_path: Path
) -> None:
    """The stored draws, latents and answers, read by other code, make the hollowed net predict what the whole net does."""
    from safetensors.torch import load_file

    tune(1, hollowed=Hollowed(keep_cache=True))
    folder, unet = tmp_path / "cache" / "hollowed-0", foundation.pipe.unet
    assert not (folder / "weights.bin").exists()
    draws, said = load_file(folder / "draws.safetensors"), load_file(folder / "core.safetensors")["core"]
    assert len(said) == settings.lora_steps * settings.lora_batch_size == 24
    latents = load_file(folder / "latents.safetensors")["latents"][draws["images"]]
    noise = torch.stack([torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(int(s))) for s in draws["seeds"]])
    steps, context = draws["time_steps"], foundation.embed([*sentences, ""])[draws["captions"]]
    noisy = foundation.pipe.scheduler.add_noise(latents, noise, steps)
    with torch.no_grad():
        for part in torch.arange(24).split(8):
            inputs = noisy[part], steps[part], context[part]
            assert torch.equal(HollowedUNet(unet, cut_at(unet, 1))(*inputs, said[part]), unet(*inputs).sample)


@pytest.mark.long
def test_tuples_take_turns(tune: Tune, monkeypatch: pytest.MonkeyPatch) -> None:
    """24 uses of 24 tuples, of 12 and of 10; those beyond a step's batch wrap around in its midst."""
    asked: list[list[int]] = []
    plain = Job.noised

    def noised(self: Job, cache: Any, which: list[int], scheduler: Any) -> Any:
        asked.append(which)
        return plain(self, cache, which, scheduler)

    monkeypatch.setattr(Job, "noised", noised)
    for count in (0, 12, 10):
        asked.clear()
        tune(hollowed=Hollowed(tuples=count))
        used = count or 24
        stored, trained = asked[: -(-used // 8)], asked[-(-used // 8) :]
        assert [i for part in stored for i in part] == list(range(used))
        assert [i for part in trained for i in part] == [i % used for i in range(24)]
        assert [len(part) for part in trained] == [8, 8, 8]


@pytest.mark.long
def test_a_float16_cache_trains_nearly_the_same(tune: Tune) -> None:
    exact, rounded = tune(1), tune(1, hollowed=Hollowed(cache_dtype="float16"))
    moved = [torch.cat([t.flatten() for n, t in state.items() if "lora_B" in n]) for state in (exact, rounded)]
    assert not torch.equal(*moved) and F.cosine_similarity(*moved, dim=0) > 0.99


def test_checkpoints_change_memory_not_numbers(tune: Tune) -> None:
    plain, saving = tune(1), tune(1, gradient_checkpointing=True)
    for name, tensor in plain.items():
        torch.testing.assert_close(saving[name], tensor, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_trains_float32_matrices(settings: Diffusion, tune: Tune, precision: str) -> None:
    on = load_foundation(dataclasses.replace(settings, precision=precision), "cpu")
    state, exact = tune(1, on=on), tune(1)
    moved = [torch.cat([t.flatten() for n, t in each.items() if "lora_B" in n]) for each in (state, exact)]
    assert all(t.dtype == torch.float32 for t in state.values())
    assert F.cosine_similarity(*moved, dim=0) > 0.9


def test_a_velocity_foundation_is_tuned_as_one(
    foundation: Foundation, with_scheduler: Swap, tune: Tune, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its target is sqrt(abar) eps - sqrt(1 - abar) x (Salimans and Ho, arXiv 2202.00512, appendix D)."""
    from diffusers import DDIMScheduler

    velocity = DDIMScheduler.from_config(foundation.pipe.scheduler.config, prediction_type="v_prediction")
    on, seen, plain = with_scheduler(foundation, velocity), list[tuple[Tensor, ...]](), Job.noised

    def noised(self: Job, cache: Any, which: list[int], scheduler: Any) -> Any:
        found = plain(self, cache, which, scheduler)
        clean = cache.latents.read(cache.draws.images[which].tolist())
        share = scheduler.alphas_cumprod[cache.draws.time_steps[which]][:, None, None, None]
        noise = cache.draws.noise(which, clean.shape[1:])
        seen.append((found[0], share.sqrt() * clean + (1 - share).sqrt() * noise))
        seen.append((found[3], share.sqrt() * noise - (1 - share).sqrt() * clean))
        return found

    monkeypatch.setattr(Job, "noised", noised)
    tune(on=on)
    assert seen
    for ours, by_hand in seen:
        torch.testing.assert_close(ours, by_hand, rtol=1e-4, atol=1e-5)


@pytest.mark.long
def test_a_constant_step_size_goes_further_than_a_falling_one(foundation: Foundation, settings: Diffusion, tune: Tune) -> None:
    """Both begin alike; the last of three steps of a cosine is a quarter of the first."""
    falling, constant = tune(), tune(lora_schedule="constant")
    first = first_matrices(foundation, settings, 0, 0)

    def way(state: dict[str, Tensor]) -> float:
        return sum((state[name] - first[name]).abs().sum().item() for name in state)

    assert way(constant) > 1.1 * way(falling)
    plain, moved = tune(NONE), tune(NONE, lora_schedule="constant")
    assert way(moved) > 1.1 * way(plain)


# Refusals and errors


def test_an_error_while_training_leaves_no_trace(foundation: Foundation, tune: Tune, digest: Digest, tmp_path: Path) -> None:
    parts = foundation.pipe.unet, foundation.pipe.vae, foundation.pipe.text_encoder
    before = [digest(part) for part in parts]
    for stage in ("tuples", "adapter"):
        heard: list[Tick] = []

        def stop(event: Tick, stage: str = stage, heard: list[Tick] = heard) -> None:
            heard.append(event)
            if event.stage == stage:
                raise ValueError("stopped")

        with pytest.raises(ValueError, match="stopped"), listening(stop):
            tune(1, hollowed=Hollowed(keep_cache=True))
        assert heard[-1].stage == stage and [digest(part) for part in parts] == before
        assert list((tmp_path / "cache").iterdir()) == []
        assert not any(m.training for m in foundation.pipe.unet.modules())
    with pytest.raises(FloatingPointError, match=r"lower diffusion\.lora-learning-rate"):
        tune(1, lora_learning_rate=1e30)
    assert [digest(part) for part in parts] == before and list((tmp_path / "cache").iterdir()) == []


def test_a_full_disk_is_told_before_the_work(tune: Tune, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[Tick] = []
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(SettingError, match="hollowed tuning needs .* are free"), listening(heard.append):
        tune()
    assert not heard and list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize(
    ("hollowed", "depth", "text"),
    [
        (Hollowed(), 9, "depth 9 is out of range"),
        (Hollowed(), 3, ""),
        (Hollowed(cache="residual"), 1, "set hollowed.cache = 'output'"),
        (Hollowed(depths="0,a"), 0, "not a list of depths"),
        (Hollowed(memory_budget_mb=1), AUTO, "hollowed.memory-budget-mb = 1 is less than"),
    ],
)
def test_what_cannot_be_is_refused_before_the_work(
    foundation: Foundation, settings: Diffusion, tune: Tune, tmp_path: Path, hollowed: Hollowed, depth: int, text: str
) -> None:
    if not text:
        assert cut_of(foundation, settings, dataclasses.replace(hollowed, depth=depth), 0) is not None
        return
    with pytest.raises(SettingError, match=text) as caught:
        tune(depth, hollowed=hollowed)
    assert "\n" not in str(caught.value) and not (tmp_path / "cache").exists()


def test_a_transformer_is_refused_but_may_be_tuned_plainly(foundation: Foundation, settings: Diffusion) -> None:
    from diffusers import DiTTransformer2DModel

    with torch.device("meta"):
        other = DiTTransformer2DModel(num_layers=1, num_attention_heads=1, attention_head_dim=8, norm_num_groups=1)
    pipe = SimpleNamespace(unet=other, tokenizer=foundation.pipe.tokenizer)
    swapped = dataclasses.replace(foundation, pipe=pipe)
    for depth in (AUTO, 0):
        with pytest.raises(SettingError, match="cannot cut a DiTTransformer2DModel"):
            cut_of(swapped, settings, Hollowed(depth=depth), 0)
    assert cut_of(swapped, settings, Hollowed(depth=NONE), 0) is None


def test_the_default_depth_is_the_balanced_one(foundation: Foundation, settings: Diffusion) -> None:
    cut = cut_of(foundation, settings, Hollowed(), 0)
    assert cut is not None and cut.depth == affordable_depth(foundation.pipe.unet, settings, torch.float32, 0) == 0
