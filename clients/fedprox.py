"""FedProx's client: FedAvg's with a proximal term (Li et al., arXiv 1812.06127)."""

from fedwarm.methods.fedprox import FedProx, ProximalTerm
from fedwarm.rounds.client import BaseClient
from fedwarm.training.loop import Hook


class FedProxClient(BaseClient):
    """Trains with the distance to the received weights in its loss."""

    def hooks(self) -> list[Hook]:
        return [ProximalTerm(self.config.of(FedProx).mu)]
