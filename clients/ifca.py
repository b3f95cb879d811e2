"""IFCA's client: it trains the model that has the least loss on its images (arXiv 2006.04088, Alg. 1)."""

from __future__ import annotations

from torch import nn

from fedwarm.core.arrays import Arrays, from_module
from fedwarm.core.payload import Payload
from fedwarm.core.told import joined, numbered
from fedwarm.methods.ifca import Ifca
from fedwarm.privacy.levels import Level, Reasons
from fedwarm.rounds.client import BaseClient
from fedwarm.rounds.experts import EXPERT, MASS, TRAINED
from fedwarm.rounds.measuring import PERSONAL, own_reasons, together
from fedwarm.tasks import task_of
from fedwarm.training.evaluate import predict


class IfcaClient(BaseClient):
    """Chooses anew in each round, and by what it trains on where it is tested."""

    sent: Arrays

    def tells(self, level: Level) -> Reasons:
        count = self.config.of(Ifca).clusters
        if level >= Level.EXAMPLE:
            return {**super().tells(level), **({TRAINED: "the only model", **own_reasons(self.config)} if count == 1 else {})}
        masses = (f"{MASS}-{k}" for k in range(count))
        return {**super().tells(level), **dict.fromkeys((TRAINED, *masses), "the account is of other facts")}

    def round(self, payload: Payload) -> Payload:
        k, model = self.best(payload)
        loss = self.fit(model, "train", payload.count("round", 1))
        self.sent = joined({}, from_module(model), f"{EXPERT}-{k}")
        mass = {} if self.level >= Level.EXAMPLE else {f"{MASS}-{k}": self.weight}
        metrics = {"num-examples": self.weight, "train-loss": loss, **self.spent, **mass}
        return Payload("weights", self.sent, metrics, {TRAINED: [k]})

    def reference(self, action: str, payload: Payload) -> Arrays:
        return {name: payload.arrays[name] for name in self.sent}

    def best(self, payload: Payload) -> tuple[int, nn.Module]:
        """The number of the model with the least loss on this client's training images, the first of equals, and the model."""
        models = {k: self.model(Payload("weights", own)) for k, own in numbered(payload.arrays, EXPERT).items()}
        k = min(models, key=lambda k: self.loss(models[k])) if len(models) > 1 else next(iter(models))
        return k, models[k]

    def loss(self, model: nn.Module) -> float:
        """The task's mean loss on this client's training images."""
        task = task_of(self.config.run)
        return float(task.loss(predict(model, self.shard.train_images, task=task), self.shard.train_labels))

    def evaluate(self, payload: Payload) -> Payload:
        """What comes of the model that suits this client best."""
        return together(self.sizes(), self.measured(self.best(payload)[1], PERSONAL))
