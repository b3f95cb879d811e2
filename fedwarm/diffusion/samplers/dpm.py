"""DPM-Solver++ in its multistep form (Lu, Zhou, Bao, Chen, Li, Zhu, "DPM-Solver++", arXiv 2211.01095)."""

from __future__ import annotations

from typing import Any

from fedwarm.settings.registry import component


@component(flows=True)
def dpm(own: Any) -> Any:
    """DPM-Solver++ over the noise schedule of a foundation's own scheduler, or along straight paths where it has these."""
    from diffusers import DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler

    if isinstance(own, FlowMatchEulerDiscreteScheduler):
        count, shift = own.config.num_train_timesteps, own.config.shift
        return DPMSolverMultistepScheduler(
            count, prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift, final_sigmas_type="zero"
        )
    return DPMSolverMultistepScheduler.from_config(own.config, clip_sample=False)


COMPONENT = dpm
