"""What makes training steps private, as the training loop sees it; `fedwarm.privacy.mechanisms` has components that do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from fedwarm.settings.config import Config
from fedwarm.settings.fields import SettingError
from fedwarm.settings.kinds import CODECS
from fedwarm.training.examples import Singly

Gradient = Callable[[Callable[..., Tensor], tuple[Tensor, ...]], None]
Receipt = Any  # what a mechanism's own account needs to know of the steps taken


class Mechanism(Protocol):
    """Makes each step of a training private at the level of examples."""

    @property
    def name(self) -> str:
        """What errors call it."""

    @property
    def covers(self) -> tuple[str, ...]:
        """The `uses` of hooks whose terms it covers (see `training.loop.Hook`)."""

    def steps(self, examples: int, batch_size: int, count: int) -> Receipt:
        """What `count` steps over so many examples tell the account."""

    def rows(self, examples: int, batch_size: int) -> Tensor:
        """The examples of a step, int64 (b,): any number of them."""

    def gradient(
        self,
        module: nn.Module,
        optimiser: torch.optim.Optimizer,
        trained: Mapping[str, nn.Parameter],
        expected: float,
        scale: float = 1.0,
        singly: Singly | None = None,
    ) -> Gradient:
        """What puts a step's private gradient into the parameters' `grad`, given a loss and examples (see `training.examples`).

        Args:
            module, optimiser: what is trained.
            trained: the parameters that train, by the names that the loss knows them by.
            expected: examples expected in a step.
            scale: what the loss is multiplied by.
            singly: how the gradients of single examples are found; None: the usual way.

        Raises:
            SettingError: the module cannot be trained so.
        """

    def generator(self) -> torch.Generator:
        """For random draws that belong to examples, which must stay as secret as they are."""

    def expected(self, examples: int, batch_size: int) -> float:
        """Examples expected in a step."""


def hidden(config: Config) -> bool:
    """Whether the codec hides what clients hold, so that a method may tell nothing that follows from it."""
    return bool(getattr(CODECS.load(config.run.codec), "private", False))


def refuse_hidden(config: Config, does: str = "measures clients' own models", remedy: str = "take another of them") -> None:
    """Refuse a codec that hides what clients hold: nothing could be told of how good their own models are.

    Args:
        config: the settings.
        does: what the method does that makes these models all there is to tell of.
        remedy: what to do.

    Raises:
        SettingError: it does.
    """
    if hidden(config):
        codec = f"codec = {config.run.codec!r} hides how good models of clients' own are"
        raise SettingError(f"method {config.run.method!r} {does}, and {codec}; {remedy}")
