"""Train a small Stable Diffusion pipeline on captioned pictures.

Latent diffusion as in Rombach et al., "High-Resolution Image Synthesis with Latent Diffusion Models", arXiv 2112.10752
(CVPR 2022), at 32x32 pixels and 8x8 latents: first the autoencoder, then text encoder and U-Net together on its latents, with
captions dropped at random for classifier-free guidance (Ho and Salimans, arXiv 2207.12598) and an exponential moving average.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedwarm.core.failures import RunError
from fedwarm.core.files import write_text, writing
from fedwarm.diffusion.pretraining.untrained import Recipe

Tick = Callable[[str, int, int, str], None]


class Pictures(Protocol):
    """Endless captioned pictures."""

    def batch(self, n: int, generator: torch.Generator) -> tuple[Tensor, list[str]]:
        """n pictures (n, 3, S, S) in [-1, 1] and their captions; every random draw comes from the generator."""


def _optimiser(modules: list[nn.Module], rate: float, steps: int) -> tuple[torch.optim.Optimizer, Any]:
    parameters = [p for m in modules for p in m.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.01, betas=(0.9, 0.99))
    rise = max(0.05, 2 / steps) if steps > 2 else 0.05  # torch divides by zero where it would be one step
    return optimiser, torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps, pct_start=rise)


def _told(loss: Tensor, option: str, rate: float) -> str:
    """A loss for people.

    Raises:
        RunError: it is not finite.
    """
    if not torch.isfinite(loss):
        raise RunError(f"the loss is {loss.item()}: training diverged; lower {option}, now {rate:g}")
    return f"loss {loss.item():.4f}"


def train_vae(vae: Any, pictures: Pictures, recipe: Recipe, generator: torch.Generator, tick: Tick) -> None:
    """Fit the autoencoder by L1 + squared error + a light Kullback-Leibler term, then set the latents' scale to one."""
    optimiser, schedule = _optimiser([vae], recipe.vae_learning_rate, recipe.vae_steps)
    vae.train()
    for step in range(recipe.vae_steps):
        image = pictures.batch(recipe.batch_size, generator)[0].to(vae.device)
        posterior = vae.encode(image).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=generator).to(image)
        output = vae.decode(posterior.mean + posterior.std * noise).sample
        rebuilt = F.l1_loss(output, image) + F.mse_loss(output, image)
        if recipe.contours:
            rebuilt = rebuilt + recipe.contours * sum(F.l1_loss(output.diff(dim=axis), image.diff(dim=axis)) for axis in (2, 3))
        loss = rebuilt + recipe.kl_weight * posterior.kl().mean() / posterior.mean[0].numel()
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        tick("autoencoder", step + 1, recipe.vae_steps, _told(loss, "--vae-learning-rate", recipe.vae_learning_rate))
    vae.eval().requires_grad_(False)
    with torch.no_grad():
        latents = vae.encode(pictures.batch(512, generator)[0].to(vae.device)).latent_dist.mean
    vae.register_to_config(scaling_factor=float(1 / latents.std()))


@torch.no_grad()
def rebuilt_error(vae: Any, pictures: Pictures, generator: torch.Generator, n: int = 1000) -> float:
    """Mean absolute error of the autoencoder on n pictures, whose values are in [-1, 1]."""
    image = pictures.batch(n, generator)[0].to(vae.device)
    return F.l1_loss(vae.decode(vae.encode(image).latent_dist.mean).sample, image).item()


@torch.no_grad()
def latent_set(pipe: Any, pictures: Pictures, recipe: Recipe, generator: torch.Generator, tick: Tick) -> tuple[Tensor, Tensor]:
    """Encode the recipe's pictures once: latents (images, 4, 8, 8) at unit scale and token ids (images, tokens)."""
    latents, ids = [], []
    for start in range(0, recipe.images, 256):
        image, captions = pictures.batch(min(256, recipe.images - start), generator)
        latents.append(pipe.vae.encode(image.to(pipe.vae.device)).latent_dist.mean * pipe.vae.config.scaling_factor)
        ids.append(tokenize(pipe.tokenizer, captions))
        tick("latents", start + len(image), recipe.images, "")
    return torch.cat(latents), torch.cat(ids)


def tokenize(tokenizer: Any, captions: list[str]) -> Tensor:
    """Token ids (n, tokens), padded to the model's length."""
    batch = tokenizer(captions, padding="max_length", truncation=True, max_length=tokenizer.model_max_length, return_tensors="pt")
    return torch.as_tensor(batch.input_ids)


def train_unet(pipe: Any, latents: Tensor, ids: Tensor, recipe: Recipe, generator: torch.Generator, tick: Tick) -> None:
    """Fit U-Net and text encoder by noise prediction; leaves their moving averages in the pipeline."""
    unet, text, scheduler = pipe.unet, pipe.text_encoder, pipe.scheduler
    unet.train()
    text.train()
    empty = tokenize(pipe.tokenizer, [""])
    optimiser, schedule = _optimiser([unet, text], recipe.unet_learning_rate, recipe.unet_steps)
    live = [*unet.parameters(), *text.parameters()]
    mean = [p.detach().clone() for p in live]
    steps = scheduler.config.num_train_timesteps
    for step in range(recipe.unet_steps):
        pick = torch.randint(len(latents), (recipe.batch_size,), generator=generator)
        drop = torch.rand(recipe.batch_size, 1, generator=generator) < recipe.caption_dropout
        context = text(torch.where(drop, empty, ids[pick]).to(latents.device))[0]
        clean = latents[pick.to(latents.device)]
        noise = torch.randn(clean.shape, generator=generator).to(clean)
        time_step = torch.randint(steps, (recipe.batch_size,), generator=generator).to(clean.device)
        noisy = scheduler.add_noise(clean, noise, time_step)
        error = (unet(noisy, time_step, context).sample - noise).square().mean((1, 2, 3))
        loss = (error * noise_weight(scheduler.alphas_cumprod.to(error)[time_step], recipe.snr)).mean()
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(live, 1.0)
        optimiser.step()
        schedule.step()
        decay = min(recipe.ema, (step + 1) / (step + 10))
        torch._foreach_lerp_(mean, [p.detach() for p in live], 1 - decay)
        tick("denoiser", step + 1, recipe.unet_steps, _told(loss, "--unet-learning-rate", recipe.unet_learning_rate))
    with torch.no_grad():
        for parameter, average in zip(live, mean, strict=True):
            parameter.copy_(average)
    unet.eval().requires_grad_(False)
    text.eval().requires_grad_(False)


def noise_weight(kept: Tensor, snr: float) -> Tensor:
    """What the squared error of predicted noise counts where a share `kept` of the variance is signal: min(SNR, snr) / SNR."""
    return torch.ones_like(kept) if not snr else (snr * (1 - kept) / kept).clamp(max=1.0)


def save(pipe: Any, folder: Path, record: dict[str, Any]) -> None:
    """Write a pipeline as fp16 safetensors, and `recipe.json` beside it."""
    pipe.to(dtype=torch.float16)
    config = folder / "text_encoder" / "config.json"  # transformers would load half precision, diffusers does not
    with writing(folder):
        pipe.save_pretrained(folder, safe_serialization=True)
        config.write_text(config.read_text().replace('"float16"', '"float32"'))
    write_text(folder / "recipe.json", json.dumps(record, indent=1) + "\n")
