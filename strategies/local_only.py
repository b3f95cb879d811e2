"""The baseline without federation: clients train alone; the server only counts."""

from flwr.app import MessageType

from fedwarm.core.arrays import Arrays
from fedwarm.core.payload import Payload
from fedwarm.record.ledger import EVALUATE
from fedwarm.rounds.server import BaseStrategy, Stage


class LocalOnly(BaseStrategy):
    """There is no global model; personal models are measured after each round."""

    method = "local_only"

    def initial_arrays(self) -> Arrays:
        return {}

    def sampled(self, number: int) -> tuple[int, ...]:
        return self.everyone

    def instruct(self, stage: Stage, client: int) -> Payload:
        return Payload(metrics={"round": stage.round})

    def evaluation(self, number: int) -> Stage:
        return Stage(number, EVALUATE, MessageType.EVALUATE, self.everyone, number)
