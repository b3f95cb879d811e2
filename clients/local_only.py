"""The baseline without federation: a client trains its own model, round after round, and sends numbers only."""

import torch

from fedwarm.core.payload import Payload
from fedwarm.privacy.levels import Level, Reasons
from fedwarm.rounds.client import PERSONAL, BaseClient
from fedwarm.rounds.measuring import own_reasons
from fedwarm.settings.fields import SettingError


class LocalOnlyClient(BaseClient):
    """Keeps its model in its own store."""

    def tells(self, level: Level) -> Reasons:
        return {**super().tells(level), **(own_reasons(self.config) if level == Level.EXAMPLE else {})}

    def round(self, payload: Payload) -> Payload:
        number, model = payload.count("round", 1), self.model()
        state = self.node.store.load(PERSONAL, before=number)
        if state is not None:
            model.load_state_dict(state)
        loss = self.fit(model, "train", number)
        if not all(bool(torch.isfinite(tensor).all()) for tensor in model.state_dict().values()):
            raise SettingError("its model holds NaN or infinity; lower learning-rate")
        self.node.store.save(PERSONAL, model.state_dict(), number)
        return Payload(metrics={"num-examples": len(self.shard.train_labels), "train-loss": loss})
