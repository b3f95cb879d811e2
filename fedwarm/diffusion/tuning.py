"""Fine-tune an adapter on private images by the foundation's own objective.

E over (x, y), t, eps of || eps - eps_theta(sqrt(abar_t) E(x) + sqrt(1 - abar_t) eps, t, prompt(y)) ||^2 (Ho et al., arXiv
2006.11239, eq. 14, in the latent space of Rombach et al., arXiv 2112.10752, eq. 2), or its velocity form where the scheduler
says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from fedwarm.core.seeds import generator
from fedwarm.diffusion import encoded
from fedwarm.diffusion.families import Family, Net, usual_family
from fedwarm.diffusion.foundation import Foundation
from fedwarm.diffusion.lora import check_finite, trainable
from fedwarm.diffusion.merged import learning
from fedwarm.diffusion.midway import Midway, mark_of
from fedwarm.diffusion.offload import apart, resting
from fedwarm.diffusion.settings import Diffusion
from fedwarm.diffusion.steps import Scaling, adamw, descend, factor_of, minimise
from fedwarm.diffusion.views import Views, parts
from fedwarm.models import to_input
from fedwarm.training.examples import Batched
from fedwarm.training.private import Mechanism

CAPTION_DROPOUT = 0.1
TOGETHER = 32  # images that are encoded at a time at most
LOOKED_AT = 8  # images of which the pixels tell a tuning from others
Noised = tuple[Tensor, Tensor, Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class Tuning:
    """One client's tuning of an adapter.

    Attributes:
        foundation: frozen; as before afterwards.
        images: uint8 (n, 3, S, S), the client's own, or what reads them a few at a time.
        labels: int64 (n,), indices into `prompts`.
        prompts: one sentence per class.
        settings: rank, steps, batch size and step size.
        seed, client: every draw derives from them, but those of private training.
    """

    foundation: Foundation
    images: Tensor | Views
    labels: Tensor
    prompts: Sequence[str]
    settings: Diffusion
    seed: int
    client: int

    @property
    def unet(self) -> Any:
        """The net that the adapter is attached to."""
        return self.foundation.net

    def scheduler(self) -> Any:
        """The foundation's noise schedule, whatever its sampler."""
        return self.foundation.family.noise_schedule(self.foundation.pipe)

    def midway(self, folder: Path | None, draws: torch.Generator, scaling: Scaling, tensors: Iterable[Tensor]) -> Midway | None:
        """What keeps the state in a folder; `tensors` are what is learned from."""
        if folder is None:
            return None
        return Midway(folder, mark_of(self.facts, tensors), draws, scaling.scaler)

    @property
    def facts(self) -> tuple[object, ...]:
        """What tells it from other tunings, beside images, labels and prompts."""
        found = self.foundation
        return self.settings, self.seed, self.client, found.fingerprint, found.device.type, found.dtype

    def mark(self, *more: object) -> str:
        """Tells what is made of its images from what is made of others: by facts, labels, prompts, and the pixels of some."""
        first = next(iter(self.images.split(LOOKED_AT)), torch.empty(0, dtype=torch.uint8))
        return mark_of((*self.facts, list(self.prompts), len(self.images), *more), [self.labels, first])

    def context(self) -> Tensor:
        """Text embeddings (prompts + 1, tokens, width): a row for each prompt, and one of none."""
        return self.foundation.embed([*self.prompts, ""])

    def latents(self, images: Tensor | Views, batch_size: int = TOGETHER) -> Tensor:
        """Latents (n, c, h, w) of some images, which are scaled and encoded at most `batch_size` at a time."""
        size, together = self.foundation.image_size, self.foundation.together(batch_size)
        return torch.cat([self.foundation.encode(to_foundation(part, size)) for part in images.split(together)])


@dataclass(frozen=True, eq=False)
class Examples:
    """What an adapter learns from: latents (n, c, h, w), labels (n,), and captions of which the last one is empty."""

    scheduler: Any
    latents: Tensor
    labels: Tensor
    context: Tensor
    foundation: Foundation | None = None

    @classmethod
    def of(cls, tuning: Tuning, folder: Path | None = None) -> Examples:
        """Those of a client, encoded once: in this process, or ever where the client's own folder keeps them."""
        found, mark = tuning.foundation, "" if folder is None else tuning.mark()
        like = torch.empty(found.net.config.in_channels, found.latent_size, found.latent_size, dtype=found.dtype, device="meta")

        def batches(start: int) -> Iterator[Tensor]:
            return (tuning.latents(part) for part in parts(tuning.images, TOGETHER, start))

        with resting([found.net], found.device):
            latents, context = encoded.encoded(folder, mark, len(tuning.images), like, batches, tuning.context)
        latents, context = (each.contiguous().to(found.device) for each in (latents, context))  # as a file gives them
        return cls(tuning.scheduler(), latents, tuning.labels, context, tuning.foundation)

    @property
    def family(self) -> Family:
        """That of the foundation, or the usual one."""
        return usual_family() if self.foundation is None else self.foundation.family

    def predict(self, net: Net, noisy: Tensor, time_steps: Tensor, captions: Tensor) -> Tensor:
        """What the net, or a function with its arguments, says of noisy latents (n, c, h, w)."""
        if self.foundation is not None:
            return self.foundation.predict(noisy, time_steps, captions, net)
        said: Tensor = net(noisy, time_steps, captions).sample
        return said

    def __len__(self) -> int:
        return len(self.labels)

    def noised(self, rows: Tensor, draws: torch.Generator) -> Noised:
        """(noisy latents, time steps, captions, targets) of some rows; a tenth of the captions are dropped, for guidance."""
        dropped = torch.rand(len(rows), generator=draws) < CAPTION_DROPOUT
        captions = torch.where(dropped, torch.tensor(len(self.context) - 1), self.labels[rows])
        time_steps = self.family.times(self.scheduler, len(rows), draws)
        noise = torch.randn((len(rows), *self.latents.shape[1:]), generator=draws).to(self.latents)
        time_steps = time_steps.to(self.latents.device)
        noisy, target = self.family.noised(self.scheduler, self.latents[rows.to(self.latents.device)], noise, time_steps)
        return noisy, time_steps, self.context[captions.to(self.context.device)], target

    def loss(self, net: Net, batch_size: int, draws: torch.Generator) -> Tensor:
        """Noise-prediction loss of one batch, drawn with replacement."""
        noisy, time_steps, captions, target = self.noised(torch.randint(len(self), (batch_size,), generator=draws), draws)
        return F.mse_loss(self.predict(net, noisy, time_steps, captions).float(), target.float())


def to_foundation(images: Tensor, size: int) -> Tensor:
    """uint8 images (n, 3, S, S) as the autoencoder's input (n, 3, size, size) in [-1, 1]."""
    inputs = to_input(images)
    if inputs.shape[-1] != size:
        inputs = F.interpolate(inputs, size=(size, size), mode="bicubic", align_corners=False, antialias=True)
    return inputs.clamp(-1, 1)


def tune_adapter(tuning: Tuning, private: Mechanism | None = None, folder: Path | None = None) -> dict[str, Tensor]:
    """Train a LoRA adapter on a client's images; latents are encoded once, only the adapter's parameters change.

    Args:
        tuning: the client's.
        private: makes each step private at the level of images; the account needs
            `private.steps(n, settings.lora_batch_size, settings.lora_steps)`.
        folder: the client's own, where the state is kept on the way, and is found after a crash; None: it is not. Private
            training begins anew, as its random numbers must not lie on a disk.

    Returns:
        the adapter's matrices (see `adapter_state`).

    Raises:
        FloatingPointError: it diverged.
    """
    settings, examples, unet = tuning.settings, Examples.of(tuning, folder), tuning.unet
    vae, device = tuning.foundation.pipe.vae, tuning.foundation.device
    whole = private is not None or settings.gradient_checkpointing
    learner = learning(tuning.foundation, settings, tuning.seed, tuning.client, whole)
    with apart(), resting([vae], device), learner as (net, parameters, matrices):
        if settings.gradient_checkpointing:
            unet.enable_gradient_checkpointing()
        unet.train()
        try:
            optimiser = adamw(parameters, settings)
            if private is None:
                draws = generator(tuning.seed, "lora", tuning.client)
                scaling = Scaling(tuning.foundation.device, tuning.foundation.dtype)
                midway = tuning.midway(folder, draws, scaling, [examples.latents, examples.labels, examples.context, *parameters])
                descend(optimiser, settings, lambda step: examples.loss(net, settings.lora_batch_size, draws), scaling, midway)
            else:
                gradient = private_gradient(unet, examples, optimiser, settings, tuning.foundation.dtype, private)
                minimise(optimiser, settings, gradient)
        finally:
            unet.eval()
            unet.disable_gradient_checkpointing()
        state = matrices()
    check_finite(state)
    if folder is not None:
        encoded.forget(folder)
    return state


def private_gradient(
    unet: Any, examples: Examples, optimiser: torch.optim.Optimizer, settings: Diffusion, dtype: torch.dtype, mechanism: Mechanism
) -> Callable[[int], None]:
    """Puts a private gradient into the adapter; as many images pass at a time as in a batch that is not private."""
    n, scale, draws = len(examples), factor_of(dtype), mechanism.generator()
    expected, singly = mechanism.expected(n, settings.lora_batch_size), Batched(unet, settings.lora_batch_size)
    into = mechanism.gradient(unet, optimiser, trainable(unet), expected, scale, singly)

    def loss(weights: dict[str, Tensor], noisy: Tensor, time_steps: Tensor, captions: Tensor, target: Tensor) -> Tensor:
        def net(*given: Any, **named: Any) -> Any:
            return functional_call(unet, weights, given, named)

        predicted = examples.predict(net, noisy, time_steps, captions)
        return F.mse_loss(predicted.float(), target.float(), reduction="none").flatten(1).mean(1) * scale

    return lambda step: into(loss, examples.noised(mechanism.rows(n, settings.lora_batch_size), draws))
