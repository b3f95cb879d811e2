"""FRL's client: it trains scores of the frozen weights, and sends the order of its scores, layer by layer."""

from __future__ import annotations

from fedwarm.core.payload import Payload
from fedwarm.faults import Faults, turned
from fedwarm.methods.frl import ORDERS, Frl
from fedwarm.rounds.client import BaseClient
from fedwarm.sparse.supermask import ScoreHook
from fedwarm.training.loop import Hook


class FrlClient(BaseClient):
    """Keeps nothing between rounds: weights follow from the seed, scores from the order that it is sent."""

    ranking: ScoreHook

    def round(self, payload: Payload) -> Payload:
        number, model, run = payload.count("round", 1), self.model(), self.config.run
        network = self.config.of(Frl).network(model, run.seed)
        self.ranking = ScoreHook(network, network.scores(network.read(payload.arrays[ORDERS])))
        loss = self.fit(model, "train", number)
        orders = network.orders(self.ranking.scores)
        if turned(self.config.of(Faults), run.seed, payload.text("ticket")):
            orders = {name: order[::-1] for name, order in orders.items()}
        metrics = {"num-examples": self.weight, "train-loss": loss}
        return Payload("words", {ORDERS: network.packed(orders)}, metrics)

    def hooks(self) -> list[Hook]:
        return [self.ranking]

    def evaluate(self, payload: Payload) -> Payload:
        network = self.config.of(Frl).network(self.model(), self.config.run.seed)
        arrays = network.state(network.read(payload.arrays[ORDERS]))
        return super().evaluate(Payload("weights", arrays, payload.metrics, payload.facts))
