"""Fine-tune an adapter on private images by the foundation's own objective.

E over (x, y), t, eps of || eps - eps_theta(sqrt(abar_t) E(x) + sqrt(1 - abar_t) eps, t, prompt(y)) ||^2 (Ho et al., arXiv
2006.11239, eq. 14, in the latent space of Rombach et al., arXiv 2112.10752, eq. 2), or its velocity form where the scheduler
says so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from fedwarm.core.progress import tick
from fedwarm.core.seeds import generator
from fedwarm.diffusion.foundation import Foundation
from fedwarm.diffusion.lora import FIRST, adapter_state, attached, check_finite, trainable
from fedwarm.diffusion.offload import apart
from fedwarm.diffusion.settings import Diffusion
from fedwarm.models import to_input
from fedwarm.privacy.mechanisms import Mechanism

CAPTION_DROPOUT = 0.1
HALF_SCALE = 1024.0
Examples = tuple[Any, Tensor, Tensor, Tensor]


def to_foundation(images: Tensor, size: int) -> Tensor:
    """uint8 images (n, 3, S, S) as the autoencoder's input (n, 3, size, size) in [-1, 1]."""
    inputs = to_input(images)
    if inputs.shape[-1] != size:
        inputs = F.interpolate(inputs, size=(size, size), mode="bicubic", align_corners=False, antialias=True)
    return inputs.clamp(-1, 1)


def schedule_of(optimiser: torch.optim.Optimizer, settings: Diffusion) -> torch.optim.lr_scheduler.LRScheduler:
    """The step size over `lora_steps` steps, by `lora_schedule`."""
    if settings.lora_schedule == "constant":
        return torch.optim.lr_scheduler.ConstantLR(optimiser, factor=1.0)
    return torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, settings.lora_steps)


def tune_adapter(
    foundation: Foundation,
    images: Tensor,
    labels: Tensor,
    prompts: list[str],
    settings: Diffusion,
    seed: int,
    client: int,
    private: Mechanism | None = None,
) -> dict[str, Tensor]:
    """Train a LoRA adapter on a client's images; latents are encoded once, only the adapter's parameters change.

    Args:
        foundation: frozen; as before afterwards.
        images: uint8 (n, 3, S, S).
        labels: int64 (n,), indices into `prompts`.
        prompts: one sentence per class.
        settings: rank, steps, batch size and step size.
        seed, client: every draw derives from them, but those of private training.
        private: makes each step private at the level of images; the account needs
            `private.steps(n, settings.lora_batch_size, settings.lora_steps)`.

    Returns:
        the adapter's matrices (see `adapter_state`).
    """
    from diffusers import DDPMScheduler

    latents = foundation.encode(to_foundation(images, foundation.image_size))
    context = foundation.embed([*prompts, ""])
    unet, scheduler = foundation.pipe.unet, DDPMScheduler.from_config(foundation.pipe.scheduler.config)
    with apart(), attached(unet, settings, seed, FIRST, client) as parameters:
        if settings.gradient_checkpointing:
            unet.enable_gradient_checkpointing()
        unet.train()
        try:
            optimiser = torch.optim.AdamW(parameters, lr=settings.lora_learning_rate)
            schedule = schedule_of(optimiser, settings)
            examples = scheduler, latents, labels, context
            if private is None:
                gradient = _plain(unet, examples, optimiser, settings, foundation.dtype, generator(seed, "lora", client))
            else:
                gradient = _private(unet, examples, optimiser, settings, foundation.dtype, private)
            for step in range(settings.lora_steps):
                gradient()
                optimiser.step()
                schedule.step()
                tick("adapter", step + 1, settings.lora_steps)
        finally:
            unet.eval()
            unet.disable_gradient_checkpointing()
        state = adapter_state(unet)
    check_finite(state)
    return state


def _plain(
    unet: Any,
    examples: Examples,
    optimiser: torch.optim.Optimizer,
    settings: Diffusion,
    dtype: torch.dtype,
    draws: torch.Generator,
) -> Callable[[], None]:
    """Puts the gradient of one batch into the adapter."""
    parameters = list(trainable(unet).values())

    def gradient() -> None:
        loss = _loss(unet, *examples, settings.lora_batch_size, draws)
        optimiser.zero_grad()
        backward(loss, parameters, dtype)

    return gradient


def _private(
    unet: Any, examples: Examples, optimiser: torch.optim.Optimizer, settings: Diffusion, dtype: torch.dtype, mechanism: Mechanism
) -> Callable[[], None]:
    """Puts a private gradient into the adapter; with checkpoints, which vmap cannot do, of one image after another."""
    n, scale, draws = len(examples[1]), _scale(dtype), mechanism.generator()
    expected, together = mechanism.expected(n, settings.lora_batch_size), not settings.gradient_checkpointing
    into = mechanism.gradient(unet, optimiser, trainable(unet), expected, scale, together)

    def loss(weights: dict[str, Tensor], noisy: Tensor, time_steps: Tensor, captions: Tensor, target: Tensor) -> Tensor:
        predicted = functional_call(unet, weights, (noisy, time_steps, captions)).sample
        return F.mse_loss(predicted.float(), target.float()) * scale

    return lambda: into(loss, _noised(*examples, mechanism.rows(n, settings.lora_batch_size), draws))


def _scale(dtype: torch.dtype) -> float:
    """What a loss is multiplied by so that float16 gradients do not sink below its smallest number."""
    return HALF_SCALE if dtype == torch.float16 else 1.0


def backward(loss: Tensor, parameters: list[torch.nn.Parameter], dtype: torch.dtype) -> None:
    """Gradients of the loss, by way of a larger one under float16."""
    scale = _scale(dtype)
    (loss * scale).backward()
    if scale != 1.0:
        torch._foreach_div_([p.grad for p in parameters if p.grad is not None], scale)


def _loss(
    unet: torch.nn.Module,
    scheduler: Any,
    latents: Tensor,
    labels: Tensor,
    context: Tensor,
    batch_size: int,
    draws: torch.Generator,
) -> Tensor:
    """Noise-prediction loss of one batch."""
    rows = torch.randint(len(latents), (batch_size,), generator=draws)
    noisy, time_steps, captions, target = _noised(scheduler, latents, labels, context, rows, draws)
    return F.mse_loss(unet(noisy, time_steps, captions).sample.float(), target.float())


def _noised(
    scheduler: Any, latents: Tensor, labels: Tensor, context: Tensor, rows: Tensor, draws: torch.Generator
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(noisy latents, time steps, captions, targets) of some rows; a tenth of the captions are dropped: guidance needs that."""
    dropped = torch.rand(len(rows), generator=draws) < CAPTION_DROPOUT
    captions = torch.where(dropped, torch.tensor(len(context) - 1), labels[rows])
    time_steps = torch.randint(scheduler.config.num_train_timesteps, (len(rows),), generator=draws)
    noise = torch.randn((len(rows), *latents.shape[1:]), generator=draws).to(latents)
    time_steps = time_steps.to(latents.device)
    clean = latents[rows.to(latents.device)]
    noisy = scheduler.add_noise(clean, noise, time_steps)
    velocity = scheduler.config.prediction_type == "v_prediction"
    target = scheduler.get_velocity(clean, noise, time_steps) if velocity else noise
    return noisy, time_steps, context[captions.to(context.device)], target
