"""Quantization-robust FedAvg's client (Gupta et al., arXiv 2206.10844): trains by the objective of the setting `variant`."""

from fedwarm.rounds.client import BaseClient


class QuantizationRobustClient(BaseClient):
    """Trains the received weights through noise or quantizers; what it sends is float."""
