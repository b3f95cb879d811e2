"""FedBN's client: its tensors of normalisation stay in its store from round to round (Li et al., arXiv 2102.07623)."""

from __future__ import annotations

from dataclasses import replace

from fedwarm.core.arrays import Arrays, from_tensors, to_tensors
from fedwarm.core.payload import Payload
from fedwarm.core.told import split
from fedwarm.methods.fedbn import FIRST, FedBn
from fedwarm.privacy.levels import Level, Reasons
from fedwarm.rounds.client import PERSONAL, BaseClient
from fedwarm.rounds.measuring import PERSONAL as OWN
from fedwarm.rounds.measuring import own_reasons, together

KEPT = "norms"


class FedBnClient(BaseClient):
    """Trains and measures the received tensors with its own ones of normalisation; a new client has those of the first model."""

    def tells(self, level: Level) -> Reasons:
        return {**super().tells(level), **(own_reasons(self.config) if level == Level.EXAMPLE else {})}

    def round(self, payload: Payload) -> Payload:
        number, whole = payload.count("round", 1), self.whole(payload, payload.count("round", 1))
        own = whole.arrays.keys() - split(payload.arrays, FIRST)[0].keys()
        reply = super().round(whole)
        self.node.store.save(KEPT, to_tensors({name: reply.arrays[name] for name in own}), number)
        return replace(reply, arrays={name: array for name, array in reply.arrays.items() if name not in own})

    def reference(self, action: str, payload: Payload) -> Arrays:
        return split(payload.arrays, FIRST)[0]

    def whole(self, payload: Payload, before: int) -> Payload:
        """The payload with this client's own tensors from before a round beside those that travel."""
        arrays, first = split(payload.arrays, FIRST)
        kept = self.node.store.load(KEPT, before=before)
        own = from_tensors(kept) if kept is not None else first or self.drawn()
        return replace(payload, arrays={**arrays, **own})

    def drawn(self) -> Arrays:
        """The kept tensors of the shared initialisation, which follow from the seed."""
        return self.config.of(FedBn).first(self.model())

    def evaluate(self, payload: Payload) -> Payload:
        """What comes of the received model with this client's own tensors; that model is kept where it may be the last."""
        number = payload.count("round")
        model = self.model(self.whole(payload, number + 1))
        if self.config.run.may_end(number):
            self.node.store.save(PERSONAL, model.state_dict(), number)
        return together(self.sizes(), self.measured(model, OWN))
