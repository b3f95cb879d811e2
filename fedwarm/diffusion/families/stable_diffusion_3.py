"""Stable Diffusion 3: a transformer that follows straight paths from noise to images (Esser et al., "Scaling Rectified Flow
Transformers for High-Resolution Image Synthesis", arXiv 2403.03206).

The third text encoder, T5, is left out, as the paper's section 5.3.3 has it where memory is scarce: the two others read the
sentence, and zeros stand where T5 would. Times are drawn by the paper's logit-normal law (section 3.1), then shifted as the
scheduler says.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from fedwarm.diffusion.families import Family, Net, packed, pooled_states, side_by_side, unpacked, widened
from fedwarm.settings.fields import Value

UNREAD = 256  # tokens of T5, as diffusers' own pipeline counts them


class StableDiffusion3(Family):
    """Stable Diffusion 3 and 3.5, without T5."""

    pipelines = ("StableDiffusion3Pipeline",)
    net = "transformer"
    encoders = ("text_encoder", "text_encoder_2")
    left_out = ("text_encoder_3", "tokenizer_3", "image_encoder", "feature_extractor")
    flow = True
    wide = True
    usual: ClassVar[Mapping[str, Value]] = {
        "diffusion.lora-learning-rate": 1e-4,
        "diffusion.lora-batch-size": 1,
        "diffusion.gradient-checkpointing": True,
        "diffusion.sample-steps": 25,
        "diffusion.guidance": 7.0,
        "diffusion.sample-batch-size": 4,
    }
    licence = "Stability AI Community License for the published weights; the text encoder T5 is left out"

    def step(self, pipe: Any) -> int:
        return int(pipe.vae_scale_factor) * int(pipe.transformer.config.patch_size)

    def largest(self, pipe: Any) -> int:
        return self.step(pipe) * int(pipe.transformer.config.pos_embed_max_size)

    def embed(self, pipe: Any, prompt: str, device: torch.device) -> Tensor:
        hidden, whole = pooled_states(pipe, prompt, device)
        return packed(hidden, torch.cat(whole, -1))

    def told(self, pipe: Any) -> tuple[int, int]:
        tokens, width = side_by_side(pipe)
        return tokens + 1, max(width, int(pipe.transformer.config.pooled_projection_dim))

    def predict(self, pipe: Any, net: Net, noisy: Tensor, time: Tensor, context: Tensor, side: int) -> Tensor:
        config = pipe.transformer.config
        read, whole = unpacked(context, config.joint_attention_dim, config.pooled_projection_dim)
        hidden = torch.nn.functional.pad(widened(read, config.joint_attention_dim), (0, 0, 0, UNREAD))
        time = time.to(noisy.device).expand(len(noisy))
        said: Tensor = net(noisy, encoder_hidden_states=hidden, pooled_projections=whole, timestep=time).sample
        return said

    def noise_schedule(self, pipe: Any) -> Any:
        from diffusers import FlowMatchEulerDiscreteScheduler

        return FlowMatchEulerDiscreteScheduler.from_config(pipe.scheduler.config)

    def times(self, schedule: Any, count: int, draws: torch.Generator) -> Tensor:
        share = torch.sigmoid(torch.randn(count, generator=draws))
        shift = float(schedule.config.shift)
        times: Tensor = shift * share / (1 + (shift - 1) * share) * schedule.config.num_train_timesteps
        return times

    def noised(self, schedule: Any, clean: Tensor, noise: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
        share = (times / schedule.config.num_train_timesteps).view(-1, 1, 1, 1)
        return ((1 - share) * clean.float() + share * noise.float()).to(clean.dtype), noise.float() - clean.float()

    def saved(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return dict(state)

    def loaded(self, saved: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return dict(saved)


COMPONENT = StableDiffusion3()
