"""FedSpeed's client: it keeps the sum of its drifts from round to round, and sends its weights with it.

A new drift counts once the server says that it has heard of it; where the server remembers drifts, it is of the weights that the
server took in, as a codec and clipping left them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from torch import Tensor

from fedwarm.aggregators import Robust, clipped
from fedwarm.core.arrays import Arrays, from_tensors, to_tensors
from fedwarm.core.payload import Payload
from fedwarm.methods.fedspeed import FedSpeed, Speed
from fedwarm.norms import weights
from fedwarm.objectives import is_learned
from fedwarm.rounds.client import BaseClient
from fedwarm.rounds.heard import HEARD, counted
from fedwarm.training.loop import Hook

OWN, DRIFT = "drift-counted", "drift"


class FedSpeedClient(BaseClient):
    """h_k <- h_k + x_k - x; it sends x_k + h_k, or x_k where the server remembers drifts."""

    drift: dict[str, Tensor]
    received: Payload

    def round(self, payload: Payload) -> Payload:
        settings, self.received = self.config.of(FedSpeed), payload
        self.drift = (counted(self.node.store, OWN, DRIFT, payload.count(HEARD)) or {}) if settings.correction else {}
        reply = super().round(payload)
        if not settings.correction:
            return reply
        drift, after = self.drifted(reply.arrays), to_tensors(reply.arrays)
        if settings.remembers:
            return reply
        return replace(reply, arrays={**reply.arrays, **from_tensors({name: after[name] + way for name, way in drift.items()})})

    def read(self, reply: Callable[[], Payload]) -> None:
        if self.config.of(FedSpeed).remembers:
            self.drifted(reply().arrays)

    def drifted(self, after: Arrays) -> dict[str, Tensor]:
        """h_k after this round, of weights x_k, put down."""
        before, remembered = self.received.arrays, self.config.of(FedSpeed).remembers
        ends = clipped(after, before, self.config.of(Robust).clip_norm) if remembered else after
        mine = [name for name in weights(before) if not is_learned(name)]  # of others no step is corrected
        start, end = (to_tensors({name: arrays[name] for name in mine}) for arrays in (before, ends))
        moved = {name: end[name] - start[name] for name in mine}
        drift = {name: self.drift[name] + way if name in self.drift else way for name, way in moved.items()}
        self.node.store.save(DRIFT, drift, self.received.count("round", 1))
        return drift

    def hooks(self) -> list[Hook]:
        return [Speed(self.config.of(FedSpeed), self.drift)]
