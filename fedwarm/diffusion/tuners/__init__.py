"""Tuners: the ways in which clients fine-tune a foundation, each into an adapter that travels.

A tuner is a class; its base tunes the adapter of the whole net in memory. Another tuner may leave a part of the adapter out, a
different one for each client: then its `parts` tell the server what each of them sends, and what images are drawn from.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fedwarm.core.arrays import Arrays, from_tensors
from fedwarm.diffusion.families import Net
from fedwarm.diffusion.foundation import Foundation
from fedwarm.diffusion.lora import first_matrices, targets_of
from fedwarm.diffusion.settings import Diffusion
from fedwarm.diffusion.tuning import Tuning, tune_adapter
from fedwarm.settings.config import Config
from fedwarm.settings.fields import Group, SettingError
from fedwarm.settings.kinds import PRIVACY, TUNERS
from fedwarm.training.private import Mechanism

INSTEAD = f"use diffusion.trainer = {Diffusion.trainer!r}"


@dataclass(frozen=True)
class Parts:
    """What each client sends of an adapter, as the server knows it; here all of them send all of it.

    Attributes:
        foundation, settings: what is tuned.
        matrices: names, shapes and dtypes of the whole adapter.
        beside: what every client sends with it.
    """

    foundation: Foundation
    settings: Diffusion
    matrices: Arrays
    beside: Arrays

    @cached_property
    def whole(self) -> Arrays:
        """The whole adapter, and what goes with it."""
        return {**self.matrices, **self.beside}

    def of(self, client: int) -> Arrays:
        """Names, shapes and dtypes of what a client sends; all that it may send where only the client knows.

        Raises:
            SettingError: the foundation cannot be tuned so.
        """
        return self.whole

    def union(self, clients: Iterable[int]) -> Arrays:
        """What any of the clients may send: the longest part, as each must lie in the next one."""
        return max(map(self.of, clients), key=len)

    def answered(self, client: int, names: Iterable[str]) -> Arrays:
        """What a client's reply with arrays of these names must hold.

        Raises:
            ValueError: it cannot be this client's.
        """
        return self.of(client)

    def used(self, sent: Mapping[int, Arrays]) -> dict[int, Arrays]:
        """What images are drawn from, by client, where the clients sent these adapters."""
        return dict(sent)

    def attaching(self, adapter: Mapping[str, object]) -> Diffusion:
        """The settings for an adapter of some layers: attached by them it holds exactly its matrices."""
        whole = len(adapter) in (0, len(self.matrices))
        return self.settings if whole else replace(self.settings, targets=targets_of(adapter))


@dataclass(frozen=True)
class Steps:
    """What a client's steps take, for counts before a run.

    Attributes:
        net: what is run with gradients, a function with the net's arguments.
        settings: those that the adapter is attached by.
        out: parts of the net that are in no memory meanwhile, and neither are the foundation's other models; none: all are.
        asked: how often the whole net is asked, without gradients, for an image of a step.
    """

    net: Net
    settings: Diffusion
    out: Sequence[nn.Module] = ()
    asked: float = 0.0


class Tuner:
    """A tuner, which as it stands tunes the adapter of the whole net, all of it in memory.

    Attributes:
        settings: its group of settings; None: it has none.
        private: whether its steps can be made private at the level of images.
        unaccounted: why not, for the error.
    """

    settings: ClassVar[type[Group] | None] = None
    private: ClassVar[bool] = False
    unaccounted: ClassVar[str] = "nobody accounts for its steps"

    def __init__(self, config: Config) -> None:
        self.config, self.diffusion = config, config.of(Diffusion)

    def check_settings(self) -> None:
        """Refuse settings that do not go with this tuner; both sides of a run do.

        Raises:
            SettingError: why, and what would go.
        """
        run = self.config.run
        if run.privacy != PRIVACY.first and not self.private:
            raise SettingError(
                f"privacy = {run.privacy!r} does not cover diffusion.trainer = {self.diffusion.trainer!r}: {self.unaccounted}; "
                f"{INSTEAD}"
            )

    def check_before(self, clients: int) -> None:
        """Refuse before any work what so many clients cannot do.

        Raises:
            SettingError: as `check_settings`, or as the foundation cannot be tuned so.
        """
        self.check_settings()

    def kinds(self, clients: int) -> Sequence[int]:
        """Of so many clients, one of each kind that takes steps of its own; here the first stands for all."""
        return range(min(1, clients))

    def steps(self, net: Any, client: int, dtype: torch.dtype, tokens: int, latent: int) -> Steps:
        """What a client's steps take.

        Args:
            net: the part that denoises, with or without numbers.
            dtype: of its weights.
            tokens, latent: length of a sentence, and side of a latent.

        Raises:
            SettingError: the foundation cannot be tuned so.
        """
        return Steps(net, self.diffusion)

    def tune(self, tuning: Tuning, private: Mechanism | None = None, folder: Path | None = None) -> dict[str, Tensor]:
        """Train a client's adapter.

        Args:
            tuning: the foundation, the client's images and what decides every draw.
            private: makes each step private; None: they are not.
            folder: the client's own, for what does not fit into memory and for the state on the way; None: the system's temporary
                place, and no state is kept.

        Returns:
            the matrices that travel, float32, by peft's names: lora_A (r, in), lora_B (out, r).

        Raises:
            FloatingPointError: training diverged.
        """
        return tune_adapter(tuning, private, folder)

    def reference(self, foundation: Foundation, client: int) -> Arrays:
        """The matrices that a client sends, before its training: both sides can draw them."""
        return from_tensors(first_matrices(foundation, self.diffusion, self.config.run.seed, client))

    def parts(self, foundation: Foundation, beside: Arrays) -> Parts:
        """What each client sends: its matrices, and `beside`."""
        return Parts(foundation, self.diffusion, self.matrices(foundation), beside)

    def matrices(self, foundation: Foundation) -> Arrays:
        """Names, shapes and dtypes of the whole adapter."""
        return from_tensors(first_matrices(foundation, self.diffusion, 0, 0))


def tuner_for(config: Config) -> Tuner:
    """The run's tuner."""
    made: Tuner = TUNERS.load(config.of(Diffusion).trainer)(config)
    return made
