"""Gen-FedSD's client (Morafah et al., arXiv 2405.07925): has drawn what its classes lack, then trains on all it has."""

from fedwarm.rounds.client import BaseClient


class GenFedSdClient(BaseClient):
    """Trains like FedAvg's client, on balanced data."""
