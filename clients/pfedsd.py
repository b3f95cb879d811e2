"""pFedSD's client: it learns from its own model of its previous round, and keeps what it ends with (Jin et al., 2023)."""

from __future__ import annotations

from fedwarm.core.arrays import to_tensors
from fedwarm.core.payload import Payload
from fedwarm.methods.pfedsd import PFedSd, SelfKnowledge
from fedwarm.objectives import is_learned
from fedwarm.rounds.client import PERSONAL, BaseClient
from fedwarm.training.loop import Hook


class PFedSdClient(BaseClient):
    """The personal model of a round is the one that was sent in it."""

    number = 0

    def hooks(self) -> list[Hook]:
        settings, state = self.config.of(PFedSd), self.node.store.load(PERSONAL, before=self.number)
        if state is None or not settings.weight:
            return super().hooks()
        return [*super().hooks(), SelfKnowledge(self.kept_model(state), settings, self.shard.train_images)]

    def round(self, payload: Payload) -> Payload:
        self.number = payload.count("round", 1)
        reply = super().round(payload)
        own = {name: array for name, array in reply.arrays.items() if not is_learned(name)}
        self.node.store.save(PERSONAL, to_tensors(own), self.number)
        return reply
