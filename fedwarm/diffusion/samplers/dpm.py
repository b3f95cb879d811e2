"""DPM-Solver++ in its multistep form (Lu, Zhou, Bao, Chen, Li, Zhu, "DPM-Solver++", arXiv 2211.01095)."""

from __future__ import annotations

from typing import Any


def dpm(own: Any) -> Any:
    """DPM-Solver++ over the noise schedule of a foundation's own scheduler."""
    from diffusers import DPMSolverMultistepScheduler

    return DPMSolverMultistepScheduler.from_config(own.config, clip_sample=False)


COMPONENT = dpm
