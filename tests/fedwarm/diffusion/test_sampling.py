"""Drawing: an image is a function of its own prompt, seed, weights and sampler, and the one that diffusers draws."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from fedwarm.core.progress import Tick, listening
from fedwarm.diffusion import sampling, sizes
from fedwarm.diffusion.foundation import Foundation
from fedwarm.diffusion.sampling import DECODED, make_scheduler, sample, start_latents
from fedwarm.diffusion.settings import Diffusion
from fedwarm.settings.kinds import SAMPLERS

Swap = Callable[[Foundation, Any], Foundation]
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning:diffusers"
)


def fingerprint(images: Tensor) -> str:
    return hashlib.sha256(images.numpy().tobytes()).hexdigest()


@pytest.fixture
def draw(foundation: Foundation, settings: Diffusion, sentences: list[str]) -> Callable[..., Tensor]:
    """Images of the ten digits, seeds 0 to 9 unless told otherwise; keyword arguments replace settings."""

    def run(
        prompts: list[str] | None = None, seeds: Any = range(10), on: Foundation = foundation, size: int = 32, **changes: Any
    ) -> Tensor:
        return sample(on, sentences if prompts is None else prompts, list(seeds), dataclasses.replace(settings, **changes), size)

    return run


Draw = Callable[..., Tensor]


def test_shape_type_and_variety(draw: Draw) -> None:
    images = draw()
    assert images.shape == (10, 3, 32, 32) and images.dtype == torch.uint8 and images.device.type == "cpu"
    assert len({fingerprint(image) for image in images}) == 10
    assert images.float().std() > 20


@pytest.fixture(params=["small", "glyph"])
def either(request: pytest.FixtureRequest, foundation: Foundation, glyph_sized: Foundation) -> Foundation:
    """The small foundation, and one as wide as the embedded one: kernels differ by width."""
    return foundation if request.param == "small" else glyph_sized


def test_the_batch_size_changes_no_bit(draw: Draw, either: Foundation, sentences: list[str]) -> None:
    prompts = sentences * 7
    ways = [draw(prompts, range(70), either, sample_batch_size=size, sample_steps=1) for size in (1, 3, 8, 64)]
    assert len({fingerprint(images) for images in ways}) == 1
    alone = draw(prompts[-1:], [69], either, sample_steps=1)
    assert torch.equal(alone[0], ways[0][-1])


def test_a_large_foundation_is_drawn_one_at_a_time_on_a_cpu(
    draw: Draw, foundation: Foundation, sentences: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both halves of its guidance: memory is that of one image, and a crash loses no more."""
    monkeypatch.setattr(sizes, "SMALL_NUMBERS", 0)
    rows: dict[str, set[int]] = {"net": set(), "decoder": set()}
    hooks = [
        module.register_forward_pre_hook(lambda _, given, name=name: rows[name].add(len(given[0])))
        for name, module in (("net", foundation.net), ("decoder", foundation.pipe.vae.decoder))
    ]
    ways = [draw(sample_batch_size=size, sample_steps=1) for size in (1, 64)]
    alone = draw(sentences[-1:], [9], sample_steps=1)
    for hook in hooks:
        hook.remove()
    assert rows == {"net": {2}, "decoder": {1}}
    assert torch.equal(*ways) and torch.equal(alone[0], ways[0][-1])


class Card:
    """A foundation on a device that stands for a GPU, which notes how many images it decodes together."""

    def __init__(self) -> None:
        self.device, self.decoded = torch.device("cuda"), list[int]()

    def together(self, most: int) -> int:
        return most

    def decode(self, latents: Tensor) -> Tensor:
        self.decoded.append(len(latents))
        return latents[:, :3]


def test_a_gpu_decodes_a_few_at_a_time() -> None:
    card, latents = Card(), torch.linspace(-1, 1, 19).view(19, 1, 1, 1).expand(19, 4, 8, 8)
    images = sampling._decode(card, latents, 8, "bicubic")  # type: ignore[arg-type]
    assert card.decoded == [DECODED, DECODED, 3] and DECODED == 8
    assert torch.equal(images[:, 0, 0, 0], ((latents[:, 0, 0, 0] + 1) * 127.5).round().to(torch.uint8))


@pytest.mark.long
def test_the_number_of_threads_changes_no_bit(draw: Draw, either: Foundation) -> None:
    single = draw(on=either, sample_steps=1)
    torch.set_num_threads(2)
    assert torch.equal(draw(on=either, sample_steps=1), single)


def test_the_order_of_the_request_is_the_order_of_the_images(draw: Draw, sentences: list[str]) -> None:
    order = torch.randperm(10, generator=torch.Generator().manual_seed(0))
    there = draw()
    back = draw([sentences[i] for i in order], order.tolist())
    assert torch.equal(back, there[order])


def test_an_image_depends_on_its_own_seed_and_prompt(draw: Draw, sentences: list[str]) -> None:
    first = draw()
    other_seed = draw(seeds=[*range(9), 99])
    other_prompt = draw([*sentences[:9], "a photo of a zebra"])
    for changed in (other_seed, other_prompt):
        assert torch.equal(changed[:9], first[:9])
        assert not torch.equal(changed[9], first[9])
    same_seed = draw(sentences[:2], [5, 5])
    assert not torch.equal(same_seed[0], same_seed[1])


@pytest.mark.parametrize("sampler", SAMPLERS.own())
def test_no_randomness_but_the_seeds(draw: Draw, sampler: str) -> None:
    first = draw(scheduler=sampler)
    torch.rand(3)
    here = torch.get_rng_state()
    assert torch.equal(draw(scheduler=sampler), first)
    assert torch.equal(torch.get_rng_state(), here)


@pytest.mark.parametrize("name", ["EulerAncestralDiscreteScheduler", "DDPMScheduler", "LCMScheduler"])
def test_a_sampler_that_adds_noise_adds_each_images_own(
    draw: Draw, foundation: Foundation, with_scheduler: Swap, sentences: list[str], name: str
) -> None:
    import diffusers

    other = with_scheduler(foundation, getattr(diffusers, name).from_config(foundation.pipe.scheduler.config))
    first = draw(on=other, scheduler="foundation")
    torch.rand(3)
    here = torch.get_rng_state()
    assert torch.equal(draw(sentences[::-1], range(9, -1, -1), other, scheduler="foundation").flip(0), first)
    assert torch.equal(torch.get_rng_state(), here)


def test_starting_noise_is_normal_and_seeded(foundation: Foundation) -> None:
    noise = torch.cat([start_latents(foundation, seed) for seed in range(64)])
    assert noise.shape == (64, 4, 8, 8)
    assert abs(noise.mean()) < 0.05 and abs(noise.std() - 1) < 0.05
    assert torch.equal(start_latents(foundation, 3), noise[3:4])
    assert start_latents(foundation, 2**63 - 1).shape == (1, 4, 8, 8)


def theirs(foundation: Foundation, prompts: list[str], settings: Diffusion, sampler: Any) -> Tensor:
    """diffusers' own pipeline on the same starting latents: (n, 3, 32, 32) in 0 .. 255."""
    parts = {**foundation.pipe.components, "scheduler": sampler}
    pipe = type(foundation.pipe)(**parts, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    drawn = pipe(
        prompts,
        height=32,
        width=32,
        num_inference_steps=settings.sample_steps,
        guidance_scale=settings.guidance,
        latents=torch.cat([start_latents(foundation, seed) for seed in range(len(prompts))]),
        output_type="pt",
    )
    return 255 * torch.as_tensor(drawn.images)


@pytest.mark.parametrize("guidance", [1.0, 1.5, 7.5])
@pytest.mark.parametrize("sampler", SAMPLERS.own())
def test_the_image_is_the_one_diffusers_draws(
    foundation: Foundation, settings: Diffusion, sentences: list[str], sampler: str, guidance: float
) -> None:
    chosen = dataclasses.replace(settings, scheduler=sampler, guidance=guidance, sample_steps=5)
    ours = sample(foundation, sentences, range(10), chosen, 32)
    expected = theirs(foundation, sentences, chosen, make_scheduler(foundation, sampler))
    assert (ours - expected).abs().max() <= 1


@pytest.mark.parametrize("name", ["PNDMScheduler", "EulerDiscreteScheduler", "UniPCMultistepScheduler"])
@pytest.mark.parametrize("sampler", SAMPLERS.own())
def test_full_size_models_samplers_draw_what_diffusers_draws(
    foundation: Foundation, settings: Diffusion, sentences: list[str], with_scheduler: Swap, name: str, sampler: str
) -> None:
    import diffusers

    own = getattr(diffusers, name).from_config(foundation.pipe.scheduler.config)
    other = with_scheduler(foundation, own)
    chosen = dataclasses.replace(settings, scheduler=sampler, guidance=2.0, sample_steps=4)
    ours = sample(other, sentences, range(10), chosen, 32)
    expected = theirs(other, sentences, chosen, make_scheduler(other, sampler))
    assert (ours - expected).abs().max() <= 1


def test_samplers_and_steps_and_guidance_matter(draw: Draw) -> None:
    drawn = [draw(), draw(scheduler="dpm"), draw(sample_steps=5), draw(guidance=7.5), draw(guidance=1.0), draw(guidance=0.0)]
    assert len({fingerprint(images) for images in drawn}) == len(drawn)


def test_guidance_one_is_the_prompt_alone_and_zero_no_prompt(draw: Draw) -> None:
    plain, nearly = draw(guidance=1.0), draw(guidance=1.0 + 1e-6)
    assert (plain.int() - nearly.int()).abs().max() <= 1
    unasked, empty = draw(guidance=0.0), draw([""] * 10, guidance=1.0)
    assert (unasked.int() - empty.int()).abs().max() <= 1


def test_latents_are_never_clipped_to_pixels_range(foundation: Foundation, with_scheduler: Swap) -> None:
    from diffusers import PNDMScheduler

    own = PNDMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1)
    chosen = make_scheduler(with_scheduler(foundation, own), "ddim")
    assert not chosen.config.clip_sample
    assert (chosen.config.beta_start, chosen.config.beta_end, chosen.config.steps_offset) == (0.00085, 0.012, 1)


def test_a_velocity_foundation_is_sampled_as_one(foundation: Foundation, with_scheduler: Swap) -> None:
    from diffusers import DDIMScheduler

    own = DDIMScheduler.from_config(foundation.pipe.scheduler.config, prediction_type="v_prediction")
    for sampler in SAMPLERS.own():
        assert make_scheduler(with_scheduler(foundation, own), sampler).config.prediction_type == "v_prediction"


@pytest.fixture(scope="module")
def pale(foundation: Foundation) -> Foundation:
    """A foundation whose images have no pixel at the end of the range, so that clamping plays no part."""
    parts = {**foundation.pipe.components, "vae": copy.deepcopy(foundation.pipe.vae)}
    parts["vae"].decoder.conv_out.weight.mul_(0.3)
    return dataclasses.replace(foundation, pipe=type(foundation.pipe)(**parts, requires_safety_checker=False))


@pytest.mark.parametrize("size", [8, 48])
def test_images_come_in_the_size_asked_for(draw: Draw, pale: Foundation, size: int) -> None:
    native, other = draw(on=pale), draw(on=pale, size=size)
    assert other.shape == (10, 3, size, size) and other.dtype == torch.uint8
    assert native.min() > 0 and native.max() < 255
    for image, resized in zip(native, other, strict=True):
        picture = Image.fromarray(image.permute(1, 2, 0).numpy()).resize((size, size), Image.Resampling.BICUBIC)
        expected = torch.from_numpy(np.asarray(picture).astype(np.int64)).permute(2, 0, 1)
        assert (resized - expected).abs().max() <= 2


def test_smaller_images_may_be_means_of_areas(draw: Draw, pale: Foundation) -> None:
    native, small = draw(on=pale).double(), draw(on=pale, size=16, resize="area")
    means = native.unflatten(2, (16, 2)).unflatten(4, (16, 2)).mean((3, 5))
    assert (small - means).abs().max() <= 1


def test_nothing_asked_nothing_drawn(draw: Draw) -> None:
    images = draw([], [], size=16)
    assert images.shape == (0, 3, 16, 16) and images.dtype == torch.uint8


def test_progress_is_told_to_the_end(draw: Draw, sentences: list[str]) -> None:
    heard: list[Tick] = []
    with listening(heard.append):
        draw(sentences * 4, range(40))
    assert {(event.stage, event.of) for event in heard} == {("images", 40)}
    assert heard[-1].step == 40
