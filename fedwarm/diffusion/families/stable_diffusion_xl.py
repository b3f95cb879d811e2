"""Stable Diffusion XL: two text encoders, of which the second says something of the whole sentence, and the size of the image as
a condition (Podell et al., "SDXL: Improving Latent Diffusion Models for High-Resolution Image Synthesis", arXiv 2307.01952).

Images are told as whole ones of the foundation's size, also those that are squares cut from originals: what is drawn is told so,
too, and an adapter learns what such squares look like.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from fedwarm.diffusion.families import Family, Net, packed, pooled_states, side_by_side, unpacked
from fedwarm.settings.fields import Value


class StableDiffusionXL(Family):
    """Stable Diffusion XL, its base model."""

    pipelines = ("StableDiffusionXLPipeline",)
    encoders = ("text_encoder", "text_encoder_2")
    left_out = ("feature_extractor", "image_encoder")
    wide = True
    usual: ClassVar[Mapping[str, Value]] = {
        "diffusion.lora-learning-rate": 1e-4,
        "diffusion.lora-batch-size": 1,
        "diffusion.gradient-checkpointing": True,
        "diffusion.sample-steps": 25,
        "diffusion.guidance": 5.0,
        "diffusion.sample-batch-size": 4,
    }
    licence = "CreativeML OpenRAIL++-M for the published weights; no watermark is drawn"

    def embed(self, pipe: Any, prompt: str, device: torch.device) -> Tensor:
        hidden, (_, whole) = pooled_states(pipe, prompt, device)
        found = packed(hidden, whole)
        nothing = not prompt and pipe.config.force_zeros_for_empty_prompt
        return torch.zeros_like(found) if nothing else found

    def told(self, pipe: Any) -> tuple[int, int]:
        tokens, width = side_by_side(pipe)
        return tokens + 1, max(width, int(pipe.text_encoder_2.config.projection_dim))

    def predict(self, pipe: Any, net: Net, noisy: Tensor, time: Tensor, context: Tensor, side: int) -> Tensor:
        hidden, whole = unpacked(context, pipe.unet.config.cross_attention_dim, pipe.text_encoder_2.config.projection_dim)
        sizes = torch.tensor([side, side, 0, 0, side, side], device=noisy.device, dtype=noisy.dtype).expand(len(noisy), -1)
        said: Tensor = net(noisy, time, hidden, added_cond_kwargs={"text_embeds": whole, "time_ids": sizes}).sample
        return said


COMPONENT = StableDiffusionXL()
