"""DDIM with eta = 0 (Song, Meng, Ermon, "Denoising Diffusion Implicit Models", arXiv 2010.02502, eq. 12)."""

from __future__ import annotations

from typing import Any


def ddim(own: Any) -> Any:
    """DDIM over the noise schedule of a foundation's own scheduler."""
    from diffusers import DDIMScheduler

    return DDIMScheduler.from_config(own.config, clip_sample=False)


COMPONENT = ddim
