"""FedAvg: McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data", arXiv 1602.05629."""

from fedwarm.core.payload import Payload
from fedwarm.rounds.server import BaseStrategy, Stage


class FedAvg(BaseStrategy):
    """Alg. 1: w <- sum_k n_k / n w_k over the cohort, on absolute weights, in the order of the partitions."""

    def begin(self, stage: Stage) -> None:
        self.mean = self.aggregator()

    def absorb(self, stage: Stage, client: int, payload: Payload) -> None:
        if stage.name == "round":
            self.mean.add(payload.arrays, payload.number("num-examples"))

    def finish(self, stage: Stage) -> None:
        if stage.name == "round":
            self.arrays = self.mean.result()
