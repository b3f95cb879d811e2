"""The baseline without federation: a client trains its own model, round after round, and sends numbers only."""

from fedwarm.core.payload import Payload
from fedwarm.privacy.levels import Level, Reasons
from fedwarm.rounds.client import PERSONAL, BaseClient
from fedwarm.rounds.measuring import PERSONAL as OWN
from fedwarm.rounds.measuring import reasons


class LocalOnlyClient(BaseClient):
    """Keeps its model in its own store."""

    def tells(self, level: Level) -> Reasons:
        trained = {"correct-personal": "of a model trained by private steps, on test images, which are outside the account"}
        return {**super().tells(level), **({**trained, **reasons(self.config, OWN)} if level == Level.EXAMPLE else {})}

    def round(self, payload: Payload) -> Payload:
        number, model = payload.count("round", 1), self.model()
        state = self.node.store.load(PERSONAL, before=number)
        if state is not None:
            model.load_state_dict(state)
        loss = self.fit(model, "train", number)
        self.node.store.save(PERSONAL, model.state_dict(), number)
        return Payload(metrics={"num-examples": len(self.shard.train_labels), "train-loss": loss})
