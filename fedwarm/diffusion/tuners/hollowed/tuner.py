"""The tuner `hollowed`: what it asks of settings and foundation, and its two halves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fedwarm.core.arrays import Arrays
from fedwarm.diffusion.foundation import EMBEDDED, PRECISIONS, Foundation
from fedwarm.diffusion.tuners import Parts, Steps, Tuner
from fedwarm.diffusion.tuners.hollowed.cuts import kept_layers
from fedwarm.diffusion.tuners.hollowed.memory import TOKENS
from fedwarm.diffusion.tuners.hollowed.net import untold
from fedwarm.diffusion.tuners.hollowed.parts import HollowedParts
from fedwarm.diffusion.tuners.hollowed.plan import bare_unet, cut_of, outside, planned_cut
from fedwarm.diffusion.tuners.hollowed.settings import AUTO, Hollowed, dealt_depths, depth_of
from fedwarm.diffusion.tuners.hollowed.tune import tune_hollowed
from fedwarm.diffusion.tuning import Tuning
from fedwarm.settings.config import Config
from fedwarm.settings.fields import SettingError
from fedwarm.settings.kinds import CODECS
from fedwarm.training.private import Mechanism


class HollowedTuner(Tuner):
    """LoRA with the net's core out of memory (Cho et al., arXiv 2411.01179); each client may have a depth of its own."""

    settings = Hollowed
    unaccounted = "its stored tuples use images again and again, which the account of random batches does not know"

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.hollowed = config.of(Hollowed)

    def check_settings(self) -> None:
        super().check_settings()
        codec, dealt = self.config.run.codec, dealt_depths(self.hollowed)
        if CODECS.load(codec).codes and AUTO in dealt and self.hollowed.memory_budget_mb:
            raise SettingError(
                f"codec = {codec!r} needs adapters whose size the server knows; hollowed.memory-budget-mb leaves the depth to "
                "each client: set hollowed.depth or hollowed.depths to numbers from 0"
            )
        if len(set(dealt)) > 1 and CODECS.load(codec).private:
            raise SettingError(
                f"codec = {codec!r} accounts for adapters of one size; hollowed.depths = {self.hollowed.depths!r} makes several: "
                "set one hollowed.depth, or another codec"
            )

    def check_before(self, clients: int) -> None:
        """Refuse depths at which the foundation cannot be cut; one that is no folder is left to its loader."""
        super().check_before(clients)
        unet = bare_unet(self.diffusion.foundation)
        narrow = torch.float32 if self.diffusion.foundation in EMBEDDED else torch.float16  # what `auto` comes to at best
        dtype = PRECISIONS.get(self.diffusion.precision, narrow)
        for client in self.kinds(clients) if unet is not None else ():
            planned_cut(unet, self.diffusion, self.hollowed, client, dtype)

    def kinds(self, clients: int) -> Sequence[int]:
        return [*{depth_of(self.hollowed, client): client for client in range(clients)}.values()]

    def steps(self, net: Any, client: int, dtype: torch.dtype, tokens: int, latent: int) -> Steps:
        cut = planned_cut(net, self.diffusion, self.hollowed, client, dtype, min(tokens, TOKENS), latent)
        if cut is None:
            return super().steps(net, client, dtype, tokens, latent)
        own = replace(self.diffusion, targets=",".join(kept_layers(net, cut, self.diffusion.targets)))
        images = self.diffusion.lora_steps * self.diffusion.lora_batch_size
        core = [net.get_submodule(name) for name in cut.removed]
        return Steps(partial(untold, net, cut), own, core, (self.hollowed.tuples or images) / images)

    def tune(self, tuning: Tuning, private: Mechanism | None = None, folder: Path | None = None) -> dict[str, Tensor]:
        return tune_hollowed(tuning, self.hollowed, folder)

    def reference(self, foundation: Foundation, client: int) -> Arrays:
        first = super().reference(foundation, client)
        return outside(cut_of(foundation, self.diffusion, self.hollowed, client), first)

    def parts(self, foundation: Foundation, beside: Arrays) -> Parts:
        return HollowedParts(foundation, self.diffusion, self.matrices(foundation), beside, self.hollowed)
