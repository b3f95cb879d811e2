"""FedAvg's client: local SGD and nothing else (McMahan et al., arXiv 1602.05629)."""

from fedwarm.rounds.client import BaseClient


class FedAvgClient(BaseClient):
    """Trains the received weights on its own data."""
