"""FedSpeed's client: it keeps the sum of its drifts from round to round, and sends its weights with it."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from fedwarm.core.arrays import from_tensors, to_tensors
from fedwarm.core.payload import Payload
from fedwarm.methods.fedspeed import FedSpeed, Speed
from fedwarm.norms import weights
from fedwarm.objectives import is_learned
from fedwarm.rounds.client import BaseClient
from fedwarm.training.loop import Hook

DRIFT = "drift"


class FedSpeedClient(BaseClient):
    """h_k <- h_k + x_k - x; it sends x_k + h_k, or x_k where the server remembers drifts."""

    drift: dict[str, Tensor]

    def round(self, payload: Payload) -> Payload:
        number, settings = payload.count("round", 1), self.config.of(FedSpeed)
        self.drift = (self.node.store.load(DRIFT, before=number) or {}) if settings.correction else {}
        reply = super().round(payload)
        if not settings.correction:
            return reply
        mine = {name for name in weights(payload.arrays) if not is_learned(name)}  # of which no step is corrected
        before, after = ({n: t for n, t in to_tensors(a).items() if n in mine} for a in (payload.arrays, reply.arrays))
        moved = {name: after[name] - before[name] for name in before}
        drift = {name: self.drift[name] + way if name in self.drift else way for name, way in moved.items()}
        self.node.store.save(DRIFT, drift, number)
        if settings.server == "memory":
            return reply
        sent = from_tensors({name: after[name] + drift[name] for name in drift})
        return replace(reply, arrays={**reply.arrays, **sent})

    def hooks(self) -> list[Hook]:
        return [Speed(self.config.of(FedSpeed), self.drift)]
