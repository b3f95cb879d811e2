"""Stable Diffusion 1.x and 2.x: a U-Net on latents that reads one text encoder (Rombach et al., arXiv 2112.10752)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from fedwarm.diffusion.families import Family
from fedwarm.settings.fields import Value


class StableDiffusion(Family):
    """Stable Diffusion 1.x and 2.x."""

    pipelines = ("StableDiffusionPipeline",)
    left_out = ("safety_checker", "feature_extractor", "image_encoder")
    arguments = ("requires_safety_checker",)
    usual: ClassVar[Mapping[str, Value]] = {
        "diffusion.lora-learning-rate": 1e-4,
        "diffusion.lora-batch-size": 4,
        "diffusion.sample-steps": 25,
        "diffusion.guidance": 7.5,
        "diffusion.sample-batch-size": 8,
    }
    licence = "CreativeML OpenRAIL-M or OpenRAIL++-M for the published weights; the safety checker is left out"


COMPONENT = StableDiffusion()
