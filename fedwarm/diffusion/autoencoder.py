"""A foundation's autoencoder: between images and latents, a few at a time, as it takes more memory for one than the net does."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fedwarm.settings.fields import SettingError

ROOM = 2**31
PLACES, LEAST = 8, 6
"""Tensors as wide and large as its first layer's that it holds at once, in the layout of Stable Diffusion, XL and 3: by torch's
profiler, what operations take for a moment included, 5 encoding and 8 decoding; 6 of them live."""
LOG = logging.getLogger("fedwarm")


def refuse_unknown(config: Mapping[str, Any], source: str) -> None:
    """Refuse latents that are normalised otherwise than by a factor and a shift.

    Raises:
        SettingError: they are, by means and deviations of their own.
    """
    if config.get("latents_mean") is not None or config.get("latents_std") is not None:
        raise SettingError(
            f"diffusion.foundation = {source!r} has an autoencoder with means and deviations of its latents (latents_mean, "
            "latents_std), which is not supported; give another foundation"
        )


def picture_bytes(vae: Any, side: int, itemsize: int, places: int = PLACES) -> int:
    """What one image of a side in pixels takes while it is encoded or decoded."""
    return places * int(vae.config.block_out_channels[0]) * side * side * itemsize


def together(vae: Any, side: int, most: int) -> int:
    """How many images, of at most so many, go through it at a time: those that fit into `ROOM`, and one at least."""
    return max(1, min(most, ROOM // picture_bytes(vae, side, vae.dtype.itemsize)))


@torch.no_grad()
def encoded(vae: Any, images: Tensor) -> Tensor:
    """Latents (n, c, h, w) at unit scale of images (n, 3, H, W) in [-1, 1], all at once, in its precision."""
    latents: Tensor = vae.encode(images.to(vae.device, vae.dtype)).latent_dist.mean
    return (latents - _shift(vae)) * float(vae.config.scaling_factor)


@torch.no_grad()
def decoded(vae: Any, latents: Tensor) -> Tensor:
    """Images (n, 3, H, W), about in [-1, 1] and float32, of latents (n, c, h, w) at unit scale, all at once.

    An image that overflows in half precision is decoded again in float32, by itself. One that is not finite then is grey, and is
    told of.
    """
    images, kind = _decoded(vae, latents), vae.dtype
    if not _broken(images):
        return images
    if kind != torch.float32:
        vae.to(torch.float32)
        try:
            for row in _broken(images):
                images[row] = _decoded(vae, latents[row : row + 1])[0]
        finally:
            vae.to(kind)
    for row in _broken(images):
        images[row] = 0.0
        LOG.warning("fedwarm: an image is not finite and becomes grey; set diffusion.precision='fp32'")
    return images


def _broken(images: Tensor) -> list[int]:
    """Which of them are not finite."""
    return [] if bool(torch.isfinite(images).all()) else (~torch.isfinite(images).flatten(1).all(1)).nonzero().flatten().tolist()


def _decoded(vae: Any, latents: Tensor) -> Tensor:
    images: Tensor = vae.decode((latents / vae.config.scaling_factor + _shift(vae)).to(vae.dtype)).sample
    return images.float()


def _shift(vae: Any) -> float:
    """What its latents are about; 0 where they are about nothing."""
    return float(vae.config.get("shift_factor") or 0.0)
