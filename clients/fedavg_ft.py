"""FedAvg's client, which tunes the last model on its own images before that is measured; it keeps the tuned model."""

from __future__ import annotations

from fedwarm.core.payload import Payload
from fedwarm.methods.fedavg_ft import FedAvgFt
from fedwarm.privacy.levels import Level
from fedwarm.rounds.client import PERSONAL, BaseClient
from fedwarm.rounds.measuring import GLOBAL, together
from fedwarm.training.loop import fit
from fedwarm.training.plan import Plan


class FedAvgFtClient(BaseClient):
    """Where a run may stop early each round's model is tuned; none in private runs, which could not tell what comes of it."""

    def evaluate(self, payload: Payload) -> Payload:
        run, number = self.config.run, payload.count("round")
        model, plan = self.model(payload), Plan.of(run, epochs=self.config.of(FedAvgFt).epochs, number=number)
        found = together(self.sizes(), self.measured(model, GLOBAL))
        if self.level >= Level.EXAMPLE or not run.may_end(number):
            return found
        fit(model, self.shard.train_images, self.shard.train_labels, plan, self.draws("tune", number), stage="tune")
        self.node.store.save(PERSONAL, model.state_dict(), number)
        return together(found, self.measured(model, PERSONAL))
