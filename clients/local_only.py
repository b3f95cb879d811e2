"""The baseline without federation: a client trains its own model, round after round, and sends numbers only."""

from fedwarm.wire import Payload

from .base import PERSONAL, BaseClient


class LocalOnlyClient(BaseClient):
    """Keeps its model in its own store."""

    def round(self, payload: Payload) -> Payload:
        model = self.model()
        state = self.node.store.load(PERSONAL)
        if state is not None and payload.number("round") > 1:
            model.load_state_dict(state)
        loss = self.fit(model, "train", int(payload.number("round")))
        self.node.store.save(PERSONAL, model.state_dict())
        return Payload(metrics={"num-examples": len(self.shard.train_labels), "train-loss": loss})
