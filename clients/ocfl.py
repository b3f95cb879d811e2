"""OCFL's client: FedAvg's, to whom the model that it is sent is its own; the last is kept."""

from __future__ import annotations

from fedwarm.core.payload import Payload
from fedwarm.privacy.levels import Level, Reasons
from fedwarm.rounds.client import PERSONAL, BaseClient
from fedwarm.rounds.measuring import PERSONAL as OWN
from fedwarm.rounds.measuring import own_reasons, together


class OcflClient(BaseClient):
    """It does not know of cohorts."""

    def tells(self, level: Level) -> Reasons:
        return {**super().tells(level), **(own_reasons(self.config) if level == Level.EXAMPLE else {})}

    def evaluate(self, payload: Payload) -> Payload:
        """What comes of its cohort's model, which is kept where it may be the last."""
        model, number = self.model(payload), payload.count("round")
        if self.config.run.may_end(number):
            self.node.store.save(PERSONAL, model.state_dict(), number)
        return together(self.sizes(), self.measured(model, OWN))
