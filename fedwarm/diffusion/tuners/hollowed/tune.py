"""Fine-tune an adapter with the U-Net's core out of memory: ask the core once, take it out, train what is left, put it back.

Cho, Choi, Das, Reisser, Kim, Yun, Porikli, "Hollowed Net for On-Device Personalization of Text-to-Image Diffusion Models",
NeurIPS 2024, arXiv 2411.01179. Stage 1 stores b = kappa(h, S_in, t, ctx) by the original weights for noised images; stage 2
minimises || eps - dec(b, S_out, t, ctx) ||^2 over the kept layers' LoRA matrices; stage 3, the transfer, attaches them to the
whole net. The paper's cut, steps and rates are not public: ours are a reading.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedwarm.core.progress import tick
from fedwarm.core.seeds import generator
from fedwarm.diffusion.lora import FIRST, adapter_state, attached, check_finite, first_matrices, load_adapter
from fedwarm.diffusion.offload import apart, away, resting
from fedwarm.diffusion.rows import Rows
from fedwarm.diffusion.settings import Diffusion
from fedwarm.diffusion.steps import Scaling, adamw, descend
from fedwarm.diffusion.tuners.hollowed.cache import Draws, check_room, draw_tuples, private_folder
from fedwarm.diffusion.tuners.hollowed.cuts import Cut, kept_layers
from fedwarm.diffusion.tuners.hollowed.net import HollowedUNet, core_output
from fedwarm.diffusion.tuners.hollowed.plan import cut_of
from fedwarm.diffusion.tuners.hollowed.settings import Hollowed
from fedwarm.diffusion.tuning import Noised, Tuning, tune_adapter
from fedwarm.diffusion.views import parts

DTYPES = {"float32": torch.float32, "float16": torch.float16}
WEIGHTS = "weights.bin"
REMEDY = "set hollowed.cache-dtype = 'float32'"


def tune_hollowed(tuning: Tuning, hollowed: Hollowed, folder: Path | None = None) -> dict[str, Tensor]:
    """Train a LoRA adapter of the kept layers on a client's images.

    Args:
        tuning: the client's. Meanwhile its foundation's core, autoencoder and text encoder are in a file, not in memory.
        hollowed: depth and cache.
        folder: where cache and weights lie meanwhile, in a folder for the owner alone; None: the system's temporary place.

    Returns:
        the kept layers' matrices, by the names and from the same random start as in `tune_adapter`.

    Raises:
        SettingError: the backbone cannot be cut so, or the disk is too small.
    """
    cut = cut_of(tuning.foundation, tuning.settings, hollowed, tuning.client)
    if cut is None:
        return tune_adapter(tuning, folder=folder)
    with private_folder(folder, f"hollowed-{tuning.client}", hollowed.keep_cache) as where, apart():
        job = Job(tuning, hollowed, cut, tuning.context(), where, folder)
        state = job.train(job.precompute())
    check_finite(state)
    return state


@dataclass(frozen=True)
class Cache:
    """Stage 1's result: the draws, the images' latents (images, c, h, w) and what the core said (tuples, c', h', w')."""

    draws: Draws
    latents: Rows
    said: Rows


@dataclass(frozen=True)
class Job:
    """One client's tuning: stage 1 is `precompute`, stage 2 `train`.

    Attributes:
        context: a row for each prompt and one for none.
        where: the folder of this tuning's files, gone afterwards.
        kept: the client's own folder, for the state of stage 2 on its way; stage 1 goes on with the files that it finds.
    """

    tuning: Tuning
    hollowed: Hollowed
    cut: Cut
    context: Tensor
    where: Path
    kept: Path | None = None

    @property
    def unet(self) -> Any:
        return self.tuning.unet

    @property
    def settings(self) -> Diffusion:
        return self.tuning.settings

    @property
    def residual(self) -> bool:
        return self.hollowed.cache == "residual"

    @property
    def unneeded(self) -> list[nn.Module]:
        """What stage 2 does without: the core, the autoencoder and the text encoder."""
        pipe = self.tuning.foundation.pipe
        return [*map(self.unet.get_submodule, self.cut.removed), pipe.vae, pipe.text_encoder]

    @property
    def count(self) -> int:
        """Number of tuples."""
        return self.hollowed.tuples or self.settings.lora_steps * self.settings.lora_batch_size

    def precompute(self) -> Cache:
        """Stage 1: the core's answers by the original weights, without gradient, in evaluation mode, a batch at a time.

        Batches begin where they would without a crash, as an answer's last bits depend on what it is computed with.

        Raises:
            SettingError: the disk is too small; nothing has been computed then.
        """
        tuning, (latents, said) = self.tuning, self._files()
        batch, scheduler = self.settings.lora_batch_size, tuning.scheduler()
        latents.back_to(latents.written if latents.written == latents.count else latents.written // batch * batch)
        with resting([self.unet], tuning.foundation.device):
            for part in parts(tuning.images, batch, latents.written):
                latents.append(tuning.latents(part, batch))
                latents.keep()
        source, steps = generator(tuning.seed, "tuples", tuning.client), scheduler.config.num_train_timesteps
        draws = draw_tuples(tuning.labels, self.count, len(self.context), steps, source)
        draws.save(self.where / "draws.safetensors")
        cache = Cache(draws, latents, said)
        said.back_to(said.written if said.written == said.count else said.written // batch * batch)
        with resting([tuning.foundation.pipe.vae], tuning.foundation.device):
            self._ask(cache, scheduler)
        return cache

    def _ask(self, cache: Cache, scheduler: Any) -> None:
        """Write what the core says of the tuples that are left."""
        batch, said = self.settings.lora_batch_size, cache.said
        for start in range(said.written, self.count, batch):
            which = list(range(start, min(start + batch, self.count)))
            inputs = self.noised(cache, which, scheduler)[:3]
            said.append(core_output(self.unet, self.cut, *inputs, residual=self.residual))
            self._alive()
            said.keep()
            tick("tuples", which[-1] + 1, self.count)

    def _alive(self) -> None:
        """Touch the client's folder: a run that makes room takes those first in which nothing has happened for longest."""
        with suppress(OSError):
            os.utime(self.where.parent)

    def _files(self) -> tuple[Rows, Rows]:
        """The files of latents and of answers, where the disk can hold them."""
        config, dtype = self.unet.config, self.tuning.foundation.dtype
        narrow = "float32" if dtype == torch.float32 else "float16"
        stored = DTYPES[narrow if self.hollowed.cache_dtype == "auto" else self.hollowed.cache_dtype]
        side = self.tuning.foundation.latent_size
        size = (config.in_channels, side, side)
        (self.where / WEIGHTS).unlink(missing_ok=True)
        mark = "" if self.kept is None else self.tuning.mark(self.hollowed, self.cut)
        latents = Rows(self.where / "latents.safetensors", "latents", len(self.tuning.images), size, dtype, mark)
        said = Rows(self.where / "core.safetensors", "core", self.count, self.cut.shape(side), stored, mark, REMEDY)
        weights = sum(t.numel() * t.itemsize for module in self.unneeded for t in module.parameters())
        left = sum((rows.count - rows.written) * rows.row_bytes for rows in (latents, said))
        check_room(self.where, left, weights, self.count)
        return latents, said

    def noised(self, cache: Cache, which: list[int], scheduler: Any) -> Noised:
        """(noisy latents, time steps, captions, targets) of some tuples, the same each time."""
        draws, device = cache.draws, self.context.device
        clean = cache.latents.read(draws.images[which].tolist()).to(device)
        noise = draws.noise(which, clean.shape[1:]).to(clean)
        time_steps = draws.time_steps[which].to(device)
        noisy, target = self.tuning.foundation.family.noised(scheduler, clean, noise, time_steps)
        return noisy, time_steps, self.context[draws.captions[which].to(device)], target

    def train(self, cache: Cache) -> dict[str, Tensor]:
        """Stage 2, on the kept part alone: the kept layers' matrices."""
        unet = self.unet
        first = first_matrices(self.tuning.foundation, self.settings, self.tuning.seed, self.tuning.client)
        own = replace(self.settings, targets=",".join(kept_layers(unet, self.cut, self.settings.targets)))
        with attached(unet, own, self.tuning.seed, FIRST, self.tuning.client) as parameters:
            load_adapter(unet, {name: first[name] for name in adapter_state(unet)})
            net = HollowedUNet(unet, self.cut, self.residual)
            if self.settings.gradient_checkpointing:
                net.net.enable_gradient_checkpointing()
            net.train()
            try:
                vae = self.tuning.foundation.pipe.vae
                with resting([vae], self.tuning.foundation.device), away(self.unneeded, self.where / WEIGHTS):
                    self._minimise(net, parameters, cache)
            finally:
                net.net.disable_gradient_checkpointing()
                unet.eval()
            return adapter_state(unet)

    def _minimise(self, net: HollowedUNet, parameters: list[nn.Parameter], cache: Cache) -> None:
        """AdamW as in plain tuning; the tuples take turns in their order."""
        optimiser = adamw(parameters, self.settings)
        batch, scheduler = self.settings.lora_batch_size, self.tuning.scheduler()

        def loss(step: int) -> Tensor:
            self._alive()
            which = [i % self.count for i in range(step * batch, (step + 1) * batch)]
            noisy, time_steps, captions, target = self.noised(cache, which, scheduler)
            predicted = net(noisy, time_steps, captions, cache.said.read(which).to(noisy))
            return F.mse_loss(predicted.float(), target.float())

        scaling = Scaling(self.tuning.foundation.device, self.tuning.foundation.dtype)
        held = (cache.latents.read([row]) for row in range(cache.latents.count))
        facts = [*vars(cache.draws).values(), self.context, *held, *parameters]
        midway = self.tuning.midway(self.kept, torch.Generator(), scaling, facts)
        descend(optimiser, self.settings, loss, scaling, midway)
