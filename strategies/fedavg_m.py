"""FedAvg-M's server: the mean of the models with equal weights, and the direction of the round for the next one's steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fedwarm.aggregators import Robust, aggregator, clipped
from fedwarm.core.arrays import Arrays
from fedwarm.core.payload import Payload
from fedwarm.core.told import joined
from fedwarm.methods.fedavg_m import FedAvgM as Settings
from fedwarm.norms import weights
from fedwarm.rounds.server import BaseStrategy, Stage
from fedwarm.training.directions import DIRECTION, STEPS, Mixture
from fedwarm.training.plan import path_of

from .fedavg import FedAvg


class Directed(BaseStrategy):
    """g <- mean (x - x_k) / (eta K_k), which clients are told in the next round (arXiv 2306.16504, Alg. 1 and 2).

    The mean is by the robust rule, over models that are clipped as those are whose mean is the next one.
    """

    mixture: ClassVar[type[Mixture]]
    moved: Arrays | None = None

    @property
    def direction(self) -> Arrays:
        """g, zero before the first round."""
        if self.moved is None:
            self.moved = {name: np.zeros_like(self.arrays[name]) for name in weights(self.arrays)}
        return self.moved

    def instruct(self, stage: Stage, client: int) -> Payload:
        sent = super().instruct(stage, client)
        if stage.name != "round" or not self.config.of(self.mixture).told(stage.round):
            return sent
        return replace(sent, arrays=joined(sent.arrays, self.direction, DIRECTION))

    def check(self, stage: Stage, payload: Payload) -> None:
        super().check(stage, payload)
        if stage.name == "round":
            payload.count(STEPS, 1)

    def begin(self, stage: Stage) -> None:
        super().begin(stage)
        self.directions = aggregator(replace(self.config.of(Robust), clip_norm=0.0), self.direction)

    def absorb(self, stage: Stage, client: int, payload: Payload) -> None:
        super().absorb(stage, client, payload)
        if stage.name == "round":
            path = path_of(self.config.run, stage.round, payload.count(STEPS, 1))
            model = {name: array for name, array in payload.arrays.items() if name in self.arrays}
            ends = clipped(model, self.arrays, self.config.of(Robust).clip_norm)
            self.directions.add({name: _along(self.arrays[name], ends[name], path) for name in self.direction}, 1.0)

    def finish(self, stage: Stage) -> None:
        super().finish(stage)
        if stage.name == "round":
            self.moved = self.directions.result()

    def state(self) -> dict[str, Arrays]:
        return {**super().state(), DIRECTION: self.direction}

    def restore(self, parts: Mapping[str, Arrays], facts: Mapping[str, Any]) -> None:
        super().restore(parts, facts)
        self.moved = dict(parts[DIRECTION])


class Equal(FedAvg):
    """FedAvg with equal weights."""

    def absorb(self, stage: Stage, client: int, payload: Payload) -> None:
        if stage.name == "round":
            self.mean.add(payload.arrays, 1.0)


class FedAvgM(Directed, Equal):
    """x <- mean x_k (arXiv 2306.16504, Alg. 1, with the server's step eta K)."""

    method = "fedavg_m"
    mixture = Settings


def _along(start: NDArray[np.generic], end: NDArray[np.generic], path: float) -> NDArray[np.generic]:
    """(start - end) / path, in float64 inside."""
    return ((start.astype(np.float64) - end.astype(np.float64)) / path).astype(start.dtype)
