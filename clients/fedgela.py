"""FedGELA's client: it trains below a head that is scaled to the classes that it holds, and keeps the model with that head."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fedwarm.core.arrays import Arrays
from fedwarm.core.payload import Payload
from fedwarm.methods.fedgela import FedGela, head_in, scaled, shares_of
from fedwarm.models import Model
from fedwarm.privacy.levels import Level
from fedwarm.rounds.client import PERSONAL, BaseClient
from fedwarm.rounds.measuring import PERSONAL as OWN
from fedwarm.rounds.measuring import together


class FedGelaClient(BaseClient):
    """What it holds of each class stays with it: the head does not travel, and is put back before anything else is done."""

    @property
    def shares(self) -> Tensor:
        """E (C,) of the examples that this client trains on."""
        return shares_of(self.shard.train_labels, len(self.shard.classes))

    def fit(self, model: nn.Module, purpose: str, number: int, learned: Arrays | None = None) -> float:
        if not self.config.of(FedGela).local:
            return super().fit(model, purpose, number, learned)
        weight = model.get_parameter(head_in(self.config.of(Model), model)[0])
        plain = weight.detach().clone()
        with torch.no_grad():
            weight.copy_(scaled(weight, self.shares))
        loss = super().fit(model, purpose, number, learned)
        with torch.no_grad():
            weight.copy_(plain)
        return loss

    def evaluate(self, payload: Payload) -> Payload:
        """What comes of the received model, and of it with the scaled head, which is kept where it may be the last."""
        found, settings, number = super().evaluate(payload), self.config.of(FedGela), payload.count("round")
        if not settings.local or self.level >= Level.EXAMPLE:
            return found
        model = self.model(payload)
        model.load_state_dict(settings.own(model.state_dict(), head_in(self.config.of(Model), model), self.shares))
        if self.config.run.may_end(number):
            self.node.store.save(PERSONAL, model.state_dict(), number)
        return together(found, self.measured(model, OWN))
