"""FedAvg: McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data", arXiv 1602.05629."""

from fedwarm.arrays import WeightedMean
from fedwarm.wire import Payload, check_arrays

from .base import BaseStrategy, Stage


class FedAvg(BaseStrategy):
    """Alg. 1: w <- sum_k n_k / n w_k over the cohort, on absolute weights, in the order of the partitions."""

    def check(self, stage: Stage, payload: Payload) -> None:
        super().check(stage, payload)
        if stage.name == "round":
            check_arrays(payload.arrays, self.arrays)

    def begin(self, stage: Stage) -> None:
        self.mean = WeightedMean()

    def absorb(self, stage: Stage, client: int, payload: Payload) -> None:
        if stage.name == "round":
            self.mean.add(payload.arrays, payload.number("num-examples"))

    def finish(self, stage: Stage) -> None:
        if stage.name == "round":
            self.arrays = self.mean.result()
