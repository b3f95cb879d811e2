"""What everyone knows before a round of DP-REC: the model, and what the server's steps left beside it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedwarm.codecs.dp_rec.plan import Vector
from fedwarm.codecs.dp_rec.settings import DpRec
from fedwarm.coding.layout import Layout
from fedwarm.core.arrays import Arrays

MEAN, VELOCITY = "dp-rec/mean", "dp-rec/velocity"


def step(mean: Vector, velocity: Vector | None, settings: DpRec) -> tuple[Vector, Vector | None]:
    """(what the model moves by, the new velocity): eta u, with u = mean, or u = momentum * velocity + mean."""
    if settings.server_momentum == 0:
        return settings.server_learning_rate * mean, None
    moved = mean if velocity is None else settings.server_momentum * velocity + mean
    return settings.server_learning_rate * moved, moved


@dataclass(frozen=True)
class Public:
    """What everyone may know before a round: what the server sends, or what a client makes out of replayed code words.

    Attributes:
        arrays: the model.
        mean: the last mean update (d,), where the settings use it; None before the first round.
        velocity: the server's momentum (d,); None before the first round, or without momentum.
    """

    arrays: Arrays
    mean: NDArray[np.float32] | None = None
    velocity: Vector | None = None

    @staticmethod
    def of(named: Arrays) -> Public:
        """Out of what `named` gave."""
        found = dict(named)
        mean, velocity = found.pop(MEAN, None), found.pop(VELOCITY, None)
        return Public(
            found,
            None if mean is None else mean.astype(np.float32, copy=False),
            None if velocity is None else velocity.astype(np.float64, copy=False),
        )

    def named(self, settings: DpRec) -> Arrays:
        """As arrays for the wire; the velocity goes along only where clients replay the server's steps."""
        found: Arrays = dict(self.arrays)
        if self.mean is not None:
            found[MEAN] = self.mean
        if self.velocity is not None and settings.downlink == "replay":
            found[VELOCITY] = self.velocity
        return found

    def profile(self, settings: DpRec) -> Vector | None:
        """What `kl_adaptive` cuts blocks by."""
        return self.mean.astype(np.float64) if self.mean is not None and settings.cut == "kl_adaptive" else None

    def centre(self, settings: DpRec) -> Vector | float:
        """What is taken off an update before it is clipped, and put back to the decoded mean."""
        return self.mean.astype(np.float64) if self.mean is not None and settings.prior == "last" else 0.0

    def after(self, decoded: Vector, layout: Layout, settings: DpRec) -> Public:
        """After a round whose decoded mean is this (d,): both sides do it in the same float64 operations."""
        mean = decoded + self.centre(settings)
        move, velocity = step(mean, self.velocity, settings)
        used = settings.prior == "last" or settings.cut == "kl_adaptive"
        return Public(layout.moved(self.arrays, move), mean.astype(np.float32) if used else None, velocity)
