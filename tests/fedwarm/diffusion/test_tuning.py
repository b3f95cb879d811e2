"""Tuning an adapter: what moves, what decides it, and that it learns the foundation's own objective."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler
from torch import Tensor, nn

from fedwarm.core.progress import Tick, listening
from fedwarm.core.seeds import generator
from fedwarm.diffusion import merged, tuning
from fedwarm.diffusion.families import Family
from fedwarm.diffusion.foundation import Foundation, load_foundation
from fedwarm.diffusion.lora import adapter_size, adapter_state, attached, load_adapter
from fedwarm.diffusion.settings import Diffusion
from fedwarm.diffusion.steps import Scaling, factor_of
from fedwarm.diffusion.tuning import Examples, Tuning, to_foundation, tune_adapter

Pictures = tuple[Tensor, Tensor]
Swap = Callable[[Foundation, Any], Foundation]
Digest = Callable[[nn.Module], str]
Tune = Callable[..., dict[str, Tensor]]
OLD_NUMPY_PROTOCOL = "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning:diffusers"


@pytest.fixture
def tune(foundation: Foundation, settings: Diffusion, pictures: Pictures, sentences: list[str]) -> Tune:
    """Tune on the rendered digits; keyword arguments replace settings."""

    def run(seed: int = 0, client: int = 0, on: Foundation = foundation, **changes: Any) -> dict[str, Tensor]:
        return tune_adapter(Tuning(on, *pictures, sentences, dataclasses.replace(settings, **changes), seed, client))

    return run


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    assert a.keys() == b.keys()
    return all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize(("side", "size"), [(32, 32), (28, 32), (32, 8), (8, 64)])
def test_images_fit_the_autoencoder(side: int, size: int) -> None:
    images = torch.randint(256, (3, 3, side, side), dtype=torch.uint8, generator=generator(0, "fit"))
    images[0], images[1] = 0, 255
    inputs = to_foundation(images, size)
    assert inputs.shape == (3, 3, size, size) and inputs.dtype == torch.float32
    assert inputs.min() >= -1 and inputs.max() <= 1
    torch.testing.assert_close(inputs[:2].mean((1, 2, 3)), torch.tensor([-1.0, 1.0]))
    if side == size:
        torch.testing.assert_close(inputs, images / 127.5 - 1, rtol=0, atol=1e-6)


def test_originals_are_scaled_a_few_at_a_time(
    foundation: Foundation, settings: Diffusion, sentences: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thousand at once take gigabytes at a foundation's full size."""
    lengths: list[int] = []

    def scaled(images: Tensor, size: int) -> Tensor:
        lengths.append(len(images))
        return to_foundation(images, size)

    monkeypatch.setattr(tuning, "to_foundation", scaled)
    images = torch.randint(256, (70, 3, 28, 28), dtype=torch.uint8, generator=generator(0, "many"))
    own = Tuning(foundation, images, torch.zeros(70, dtype=torch.int64), sentences, settings, 0, 0)
    assert len(Examples.of(own).latents) == 70 and lengths == [32, 32, 6]
    lengths.clear()
    assert len(own.latents(images, 16)) == 70 and lengths == [16, 16, 16, 16, 6]


def test_only_the_adapter_moves(foundation: Foundation, settings: Diffusion, tune: Tune, digest: Digest) -> None:
    parts = (foundation.pipe.unet, foundation.pipe.vae, foundation.pipe.text_encoder)
    before = [digest(part) for part in parts]
    state = tune()
    assert [digest(part) for part in parts] == before
    assert not any(p.requires_grad or p.grad is not None for part in parts for p in part.parameters())
    assert not any(part.training for part in parts)
    assert sum(t.numel() for t in state.values()) == adapter_size(foundation.pipe.unet, settings.rank, settings.targets)
    assert all(t.dtype == torch.float32 and t.device.type == "cpu" and not t.requires_grad for t in state.values())
    with attached(foundation.pipe.unet, settings, 0, "lora-init", 0):
        fresh = adapter_state(foundation.pipe.unet)
    assert fresh.keys() == state.keys()
    assert all(not torch.equal(fresh[name], state[name]) for name in state)


def test_base_weights_hold_still_while_it_trains(foundation: Foundation, tune: Tune) -> None:
    unet = foundation.pipe.unet
    base = {name: p.detach().clone() for name, p in unet.named_parameters()}
    seen: list[set[str]] = []

    def look(event: Tick) -> None:
        if event.stage == "adapter":
            now = {name.replace(".base_layer", ""): p for name, p in unet.named_parameters()}
            assert all(torch.equal(now[name], base[name]) for name in base)
            seen.append({name for name, p in now.items() if p.requires_grad})

    with listening(look):
        tune()
    assert seen
    assert all(".lora_" in name for names in seen for name in names)


def test_seed_and_client_decide_all(tune: Tune) -> None:
    first = tune(seed=3, client=1)
    torch.rand(5)
    here = torch.get_rng_state()
    assert same(tune(seed=3, client=1), first)
    assert torch.equal(torch.get_rng_state(), here)
    assert not same(tune(seed=3, client=2), first)
    assert not same(tune(seed=4, client=1), first)


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


def test_the_loss_falls(
    foundation: Foundation, settings: Diffusion, tune: Tune, pictures: Pictures, sentences: list[str]
) -> None:
    before = fixed_loss(foundation, *pictures, sentences)
    state = tune(lora_steps=60, lora_learning_rate=1e-2)
    with attached(foundation.pipe.unet, settings, 0, "loss"):
        load_adapter(foundation.pipe.unet, state)
        after = fixed_loss(foundation, *pictures, sentences)
    assert after < 0.9 * before
    assert fixed_loss(foundation, *pictures, sentences) == before


def test_checkpointing_changes_memory_not_numbers(foundation: Foundation, tune: Tune, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside a large net's tuning: a small one's is merged, and rounds elsewhere."""
    monkeypatch.setattr(merged, "MOST_NUMBERS", 0)
    used: list[bool] = []

    def look(event: Tick) -> None:
        used.append(foundation.pipe.unet.is_gradient_checkpointing)

    plain = tune()
    with listening(look):
        saving = tune(gradient_checkpointing=True)
    assert used and all(used)
    assert not foundation.pipe.unet.is_gradient_checkpointing
    for name, tensor in plain.items():
        torch.testing.assert_close(saving[name], tensor, rtol=1e-5, atol=1e-7)


def test_divergence_is_an_error_and_leaves_no_trace(foundation: Foundation, tune: Tune, digest: Digest) -> None:
    before = digest(foundation.pipe.unet)
    with pytest.raises(FloatingPointError, match=r"lower diffusion\.lora-learning-rate"):
        tune(lora_learning_rate=1e30)
    assert digest(foundation.pipe.unet) == before
    assert not foundation.pipe.unet.training


class Oracle(nn.Module):
    """Knows the one clean latent that there is, so it can say exactly which noise, or which velocity, was added."""

    def __init__(self, clean: Tensor, velocity: bool) -> None:
        super().__init__()
        betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
        self.kept = torch.from_numpy(np.cumprod(1 - betas))
        self.clean, self.velocity = clean.double(), velocity
        self.contexts: list[Tensor] = []
        self.steps: list[Tensor] = []

    def forward(self, noisy: Tensor, steps: Tensor, context: Tensor) -> Any:
        self.contexts.append(context)
        self.steps.append(steps)
        kept = self.kept[steps].view(-1, 1, 1, 1)
        noise = (noisy.double() - kept.sqrt() * self.clean) / (1 - kept).sqrt()
        told = kept.sqrt() * noise - (1 - kept).sqrt() * self.clean if self.velocity else noise
        return type("Output", (), {"sample": told.float()})


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_the_target_is_what_the_scheduler_predicts(prediction: str) -> None:
    from diffusers import DDPMScheduler

    scheduler = DDPMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type=prediction, clip_sample=False
    )
    clean = torch.randn(1, 4, 8, 8, generator=generator(0, "clean"))
    right, wrong = (Oracle(clean, velocity) for velocity in (prediction == "v_prediction", prediction == "epsilon"))
    for oracle, low, high in ((right, 0.0, 1e-6), (wrong, 0.1, 10.0)):
        examples = Examples(scheduler, clean, torch.zeros(1, dtype=torch.int64), torch.zeros(2, 1, 1))
        loss = examples.loss(oracle, 256, generator(0, "oracle"))
        assert low <= loss.item() < high
    assert len(right.steps[0].unique()) > 150 and right.steps[0].min() < 50 and right.steps[0].max() > 950


def test_every_image_gets_its_own_caption_or_none() -> None:
    from diffusers import DDPMScheduler

    class Listener(nn.Module):
        def forward(self, noisy: Tensor, steps: Tensor, context: Tensor) -> Any:
            self.seen = noisy, context
            return type("Output", (), {"sample": noisy})

    labels = torch.tensor([2, 0, 1, 1])
    latents = 1e4 * (labels + 1.0).view(4, 1, 1, 1).expand(4, 4, 2, 2)
    context = torch.arange(4.0).view(4, 1, 1)
    unet, scheduler = Listener(), DDPMScheduler(num_train_timesteps=2, beta_start=1e-8, beta_end=1e-8)
    Examples(scheduler, latents, labels, context).loss(unet, 2000, generator(0, "captions"))
    noisy, given = unet.seen
    truth, told = (noisy.mean((1, 2, 3)) / 1e4).round() - 1, given.flatten()
    named = told != 3
    assert torch.equal(told[named], truth[named])
    assert 0.07 < 1 - named.float().mean() < 0.13
    assert set(truth[~named].tolist()) == {0, 1, 2}
    assert abs((truth == 1).float().mean() - 0.5) < 0.05


def test_a_velocity_foundation_is_tuned_as_one(foundation: Foundation, with_scheduler: Swap, tune: Tune, digest: Digest) -> None:
    from diffusers import DDIMScheduler

    velocity = DDIMScheduler.from_config(foundation.pipe.scheduler.config, prediction_type="v_prediction")
    before = digest(foundation.pipe.unet)
    state = tune(on=with_scheduler(foundation, velocity))
    assert not same(state, tune())
    assert digest(foundation.pipe.unet) == before


@pytest.mark.filterwarnings(OLD_NUMPY_PROTOCOL)
@pytest.mark.parametrize(
    "name", ["PNDMScheduler", "EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler", "DPMSolverMultistepScheduler"]
)
def test_the_sampler_of_a_foundation_does_not_change_how_it_is_tuned(
    foundation: Foundation, with_scheduler: Swap, tune: Tune, name: str
) -> None:
    import diffusers

    other = getattr(diffusers, name).from_config(foundation.pipe.scheduler.config)
    assert same(tune(on=with_scheduler(foundation, other), lora_steps=2), tune(lora_steps=2))


def test_small_gradients_survive_float16(settings: Diffusion, foundation: Foundation) -> None:
    half = load_foundation(dataclasses.replace(settings, precision="fp16"), "cpu")
    gradients = {}
    for on in (foundation, half):
        unet = on.pipe.unet
        with attached(unet, settings, 0, "half") as parameters:
            latents = torch.randn(2, 4, 32, 32, generator=generator(0, "half")).to(on.dtype)
            noise = torch.randn(latents.shape, generator=generator(1, "half"))
            said = unet(latents, torch.tensor([200, 700]), on.embed(["one", "two"])).sample
            Scaling(on.device, on.dtype).backward(1e-2 * F.mse_loss(said.float(), noise))
            found = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])
            gradients[on.dtype] = found / factor_of(on.dtype)
    exact, small = gradients[torch.float32], gradients[torch.float16]
    assert F.cosine_similarity(exact, small, dim=0) > 0.9999


def test_bf16_foundation_trains_float32_adapters(settings: Diffusion, pictures: Pictures, sentences: list[str]) -> None:
    half = load_foundation(dataclasses.replace(settings, precision="bf16"), "cpu")
    assert {p.dtype for m in (half.pipe.unet, half.pipe.vae, half.pipe.text_encoder) for p in m.parameters()} == {torch.bfloat16}
    weights = {name: p.clone() for name, p in half.pipe.unet.named_parameters()}
    kinds: set[torch.dtype] = set()

    def look(event: Tick) -> None:
        kinds.update(p.dtype for p in half.pipe.unet.parameters() if p.requires_grad)

    with listening(look):
        state = tune_adapter(Tuning(half, *pictures, sentences, settings, 0, 0))
    assert kinds == {torch.float32} == {t.dtype for t in state.values()}
    assert all(bool((state[name] != 0).any()) for name in state)
    assert all(torch.equal(p, weights[name]) for name, p in half.pipe.unet.named_parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_early_times_have_their_noise_in_half_precision_too(dtype: torch.dtype, prediction: str) -> None:
    """Alpha-bar of the first times of a thousand rounds to 1 in bfloat16, which would leave no noise at all."""
    schedule = DDPMScheduler(prediction_type=prediction)
    times, ones = torch.tensor([0, 1, 10, 500, 999]), torch.ones(5, 4, 8, 8, dtype=dtype)
    share = schedule.alphas_cumprod[times].double()
    noisy, target = Family().noised(schedule, 0 * ones, ones, times)
    assert noisy.dtype == dtype
    assert torch.allclose(noisy[:, 0, 0, 0].double(), (1 - share).sqrt(), rtol=1 / 128)
    wanted = share.sqrt() if prediction == "v_prediction" else torch.ones(5, dtype=torch.float64)
    assert torch.allclose(target[:, 0, 0, 0].double(), wanted, rtol=1 / 128)
