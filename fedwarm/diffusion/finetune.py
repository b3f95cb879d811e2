"""Fine-tune an adapter on private images by the foundation's own objective.

E over (x, y), t, eps of || eps - eps_theta(sqrt(abar_t) E(x) + sqrt(1 - abar_t) eps, t, prompt(y)) ||^2 (Ho et al., arXiv
2006.11239, eq. 14, in the latent space of Rombach et al., arXiv 2112.10752, eq. 2), or its velocity form where the scheduler
says so.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fedwarm.config import Diffusion
from fedwarm.diffusion.foundation import Foundation
from fedwarm.diffusion.lora import adapter_state, attached, check_finite
from fedwarm.models import to_input
from fedwarm.progress import tick
from fedwarm.seeds import generator

CAPTION_DROPOUT = 0.1
HALF_SCALE = 1024.0


def to_foundation(images: Tensor, size: int) -> Tensor:
    """uint8 images (n, 3, S, S) as the autoencoder's input (n, 3, size, size) in [-1, 1]."""
    inputs = to_input(images)
    if inputs.shape[-1] != size:
        inputs = F.interpolate(inputs, size=(size, size), mode="bicubic", align_corners=False, antialias=True)
    return inputs.clamp(-1, 1)


def tune_adapter(
    foundation: Foundation, images: Tensor, labels: Tensor, prompts: list[str], settings: Diffusion, seed: int, client: int
) -> dict[str, Tensor]:
    """Train a LoRA adapter on a client's images; latents are encoded once, only the adapter's parameters change.

    Args:
        foundation: frozen; as before afterwards.
        images: uint8 (n, 3, S, S).
        labels: int64 (n,), indices into `prompts`.
        prompts: one sentence per class.
        settings: rank, steps, batch size and step size.
        seed, client: every draw derives from them.

    Returns:
        the adapter's matrices (see `adapter_state`).
    """
    from diffusers import DDPMScheduler

    latents = foundation.encode(to_foundation(images, foundation.image_size))
    context = foundation.embed([*prompts, ""])
    draws = generator(seed, "lora", client)
    unet, scheduler = foundation.pipe.unet, DDPMScheduler.from_config(foundation.pipe.scheduler.config)
    with attached(unet, settings, seed, "lora-init", client) as parameters:
        if settings.gradient_checkpointing:
            unet.enable_gradient_checkpointing()
        unet.train()
        try:
            optimiser = torch.optim.AdamW(parameters, lr=settings.lora_learning_rate)
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, settings.lora_steps)
            for step in range(settings.lora_steps):
                loss = _loss(unet, scheduler, latents, labels, context, settings.lora_batch_size, draws)
                optimiser.zero_grad()
                _backward(loss, parameters, foundation.dtype)
                optimiser.step()
                schedule.step()
                tick("adapter", step + 1, settings.lora_steps)
        finally:
            unet.eval()
            unet.disable_gradient_checkpointing()
        state = adapter_state(unet)
    check_finite(state)
    return state


def _backward(loss: Tensor, parameters: list[torch.nn.Parameter], dtype: torch.dtype) -> None:
    """Gradients of the loss; under float16 by way of a larger loss, as they would sink below its smallest number."""
    scale = HALF_SCALE if dtype == torch.float16 else 1.0
    (loss * scale).backward()
    if scale != 1.0:
        torch._foreach_div_([p.grad for p in parameters if p.grad is not None], scale)


def _loss(
    unet: torch.nn.Module,
    scheduler: object,
    latents: Tensor,
    labels: Tensor,
    context: Tensor,
    batch_size: int,
    draws: torch.Generator,
) -> Tensor:
    """Noise-prediction loss of one batch; a tenth of the captions are dropped, as guidance needs the empty one."""
    rows = torch.randint(len(latents), (batch_size,), generator=draws)
    dropped = torch.rand(batch_size, generator=draws) < CAPTION_DROPOUT
    captions = torch.where(dropped, torch.tensor(len(context) - 1), labels[rows])
    time_steps = torch.randint(scheduler.config.num_train_timesteps, (batch_size,), generator=draws)  # type: ignore[attr-defined]
    noise = torch.randn((batch_size, *latents.shape[1:]), generator=draws).to(latents)
    time_steps = time_steps.to(latents.device)
    clean = latents[rows.to(latents.device)]
    noisy = scheduler.add_noise(clean, noise, time_steps)  # type: ignore[attr-defined]
    velocity = scheduler.config.prediction_type == "v_prediction"  # type: ignore[attr-defined]
    target = scheduler.get_velocity(clean, noise, time_steps) if velocity else noise  # type: ignore[attr-defined]
    predicted = unet(noisy, time_steps, context[captions.to(context.device)]).sample
    return F.mse_loss(predicted.float(), target.float())
