"""FedAvg-M's client: local steps along its own gradient and the server's direction (Cheng et al., arXiv 2306.16504, Alg. 1)."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from torch import Tensor

from fedwarm.core.arrays import Arrays, to_tensors
from fedwarm.core.payload import Payload
from fedwarm.core.told import split
from fedwarm.methods.fedavg_m import FedAvgM
from fedwarm.privacy.levels import Level, Reasons
from fedwarm.rounds.client import BaseClient
from fedwarm.training.directions import DIRECTION, STEPS, Mixed, Mixture
from fedwarm.training.loop import Hook


class DirectedClient(BaseClient):
    """Trains along beta times what it would follow and (1 - beta) times the told direction; says how many steps it took."""

    mixture: ClassVar[type[Mixture]]
    direction: dict[str, Tensor]

    def round(self, payload: Payload) -> Payload:
        arrays, told = split(payload.arrays, DIRECTION)
        self.direction = to_tensors(told)
        reply = super().round(replace(payload, arrays=arrays))
        return replace(reply, metrics={**reply.metrics, STEPS: self.steps})

    def tells(self, level: Level) -> Reasons:
        return {**super().tells(level), **({STEPS: "follows from numbers of images"} if level < Level.CLIENT else {})}

    def reference(self, action: str, payload: Payload) -> Arrays:
        return split(payload.arrays, DIRECTION)[0]

    def hooks(self) -> list[Hook]:
        beta, decay = self.config.of(self.mixture).beta, self.config.run.weight_decay
        return [*super().hooks(), *([Mixed(beta, self.direction, decay)] if self.direction else [])]


class FedAvgMClient(DirectedClient):
    """Trains the received weights."""

    mixture = FedAvgM
