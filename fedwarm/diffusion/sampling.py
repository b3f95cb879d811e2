"""Draw images from a foundation: seeded one by one, denoised in batches, with classifier-free guidance.

The steps are those of a sampler (`fedwarm.diffusion.samplers`); guidance as in Ho and Salimans, arXiv 2207.12598, eq. 6. Noise
enters only through an image's own generators.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fedwarm.core.progress import tick
from fedwarm.core.seeds import generator
from fedwarm.diffusion.foundation import Foundation
from fedwarm.diffusion.settings import Diffusion
from fedwarm.settings.kinds import SAMPLERS

DECODED = 8  # images that a GPU decodes together at most
Through = Callable[[int, Callable[[], Tensor]], Tensor]


def drawn_anew(start: int, draw: Callable[[], Tensor]) -> Tensor:
    """A batch, drawn."""
    return draw()


def make_scheduler(foundation: Foundation, name: str) -> Any:
    """A sampler over the foundation's own noise schedule: a fresh scheduler of diffusers' interface.

    Raises:
        SettingError: there is no sampler of that name.
    """
    return SAMPLERS.load(name)(foundation.pipe.scheduler)


def sample(
    foundation: Foundation,
    prompts: Sequence[str],
    seeds: Sequence[int],
    settings: Diffusion,
    size: int,
    stage: str = "images",
    through: Through = drawn_anew,
) -> Tensor:
    """One image per (prompt, seed).

    Args:
        foundation: with an adapter attached, or bare.
        prompts: n sentences.
        seeds: n seeds; an image is a function of its prompt, its seed, the weights and the sampler.
        settings: sampler, steps, guidance and batch size.
        size: height and width of the result in pixels.
        stage: the name under which progress is told.
        through: called with the number of a batch's first image and what draws it; gives the batch, which it may have kept.

    Returns:
        uint8 (n, 3, size, size) on the CPU.
    """
    asked = Batches(foundation, prompts, seeds, settings, size)
    parts = []
    for start in asked.starts:
        parts.append(asked.cut(start, through(start, partial(asked.draw, start))))
        tick(stage, min(start + asked.length, len(seeds)), len(seeds))
    return asked.joined(parts)


@dataclass(frozen=True, eq=False)
class Batches:
    """Images that are asked for, one per (prompt, seed), batch by batch (see `sample`)."""

    foundation: Foundation
    prompts: Sequence[str]
    seeds: Sequence[int]
    settings: Diffusion
    size: int

    @property
    def length(self) -> int:
        """Images of a batch."""
        return self.foundation.exact_rows if self.foundation.device.type == "cpu" else self.settings.sample_batch_size

    @property
    def starts(self) -> range:
        """The number of each batch's first image."""
        return range(0, len(self.seeds), self.length)

    @cached_property
    def context(self) -> tuple[Tensor, Tensor, Tensor]:
        """Text embeddings of the sentences, which of them each image has, and the embedding of none."""
        known = list(dict.fromkeys(self.prompts))
        context = self.foundation.embed([*known, ""])
        return context, torch.tensor([known.index(p) for p in self.prompts], dtype=torch.long), context[-1:]

    @torch.no_grad()
    def draw(self, start: int) -> Tensor:
        """The batch from this image on; on a CPU filled up to its number."""
        end = min(start + self.length, len(self.seeds))
        chosen = padded(list(range(start, end)), self.foundation)
        context, rows, empty = self.context
        wanted, own = context[rows[chosen].to(context.device)], [self.seeds[i] for i in chosen]
        return _batch(self.foundation, own, wanted, empty, self.settings, self.size)

    def cut(self, start: int, batch: Tensor) -> Tensor:
        """A batch without what filled it up."""
        return batch[: min(self.length, len(self.seeds) - start)]

    def joined(self, parts: Sequence[Tensor]) -> Tensor:
        """All images (n, 3, size, size) of batches that were cut."""
        return torch.cat(list(parts)) if parts else torch.empty(0, 3, self.size, self.size, dtype=torch.uint8)


def _batch(
    foundation: Foundation, seeds: Sequence[int], context: Tensor, empty: Tensor, settings: Diffusion, size: int
) -> Tensor:
    latents = torch.cat([start_latents(foundation, seed) for seed in seeds])
    clean = _denoise(foundation, latents, context, empty, settings, seeds)
    return _decode(foundation, clean, size, settings.resize)


def padded(rows: list[int], foundation: Foundation) -> list[int]:
    """The rows, on a CPU filled up by repeating the last one: to sixteen of a small foundation; others draw one at a time.

    With other numbers (seen below 16 and from 64 on) torch's CPU kernels sum in another order, and an image would depend on
    how many are drawn with it; so a CPU draws as many at a time whatever the batch size. With sixteen it does not depend on the
    number of threads either (one or two); with fewer it does, in its last bits, and that number is a setting.
    """
    short = foundation.exact_rows - len(rows) if foundation.device.type == "cpu" else 0
    return rows + [rows[-1]] * short


def start_latents(foundation: Foundation, seed: int) -> Tensor:
    """Pure noise (1, c, h, w) of one image, from its seed alone."""
    shape = (1, foundation.net.config.in_channels, foundation.latent_size, foundation.latent_size)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return noise.to(foundation.device)


def _denoise(
    foundation: Foundation, latents: Tensor, context: Tensor, empty: Tensor, settings: Diffusion, seeds: Sequence[int]
) -> Tensor:
    """eps = eps(empty) + guidance (eps(prompt) - eps(empty)), step by step; a sampler that adds noise takes each image's own.

    All but the net is in float32: what half precision rounds at every step, guidance multiplies.
    """
    scheduler = make_scheduler(foundation, settings.scheduler)
    scheduler.set_timesteps(settings.sample_steps, device=foundation.device)
    latents = latents * getattr(scheduler, "init_noise_sigma", 1.0)
    scaled = getattr(scheduler, "scale_model_input", lambda values, _: values)
    noisy = "generator" in inspect.signature(scheduler.step).parameters
    noise = {"generator": [generator(seed, "sampler") for seed in seeds]} if noisy else {}
    guided = settings.guidance != 1.0
    both = torch.cat([empty.expand_as(context), context]) if guided else context
    for t in scheduler.timesteps:
        inputs = scaled(torch.cat([latents, latents]) if guided else latents, t)
        predicted = foundation.predict(inputs.to(foundation.dtype), t, both).float()
        if guided:
            without, given = predicted.chunk(2)
            predicted = without + settings.guidance * (given - without)
        latents = scheduler.step(predicted, t, latents, **noise).prev_sample
    return latents


def _decode(foundation: Foundation, latents: Tensor, size: int, resize: str) -> Tensor:
    """uint8 images (n, 3, size, size); on a GPU a few at a time, as the autoencoder takes more room for one than the net does."""
    together = len(latents) if foundation.device.type == "cpu" else foundation.together(DECODED)
    return torch.cat([_decoded(foundation, part, size, resize) for part in latents.split(together)])


def _decoded(foundation: Foundation, latents: Tensor, size: int, resize: str) -> Tensor:
    images = foundation.decode(latents)
    if images.shape[-1] != size:
        cubic: dict[str, Any] = {"align_corners": False, "antialias": True} if resize == "bicubic" else {}
        images = F.interpolate(images, size=(size, size), mode=resize, **cubic)
    pixels: Tensor = ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu().contiguous()
    return pixels
