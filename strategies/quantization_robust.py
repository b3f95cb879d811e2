"""Quantization-robust FedAvg (Gupta et al., arXiv 2206.10844): FedAvg's server; the final model is measured at every width.

What clients learn of their quantizers travels as logarithms, so that the weighted mean is the geometric one of the steps.
"""

from .fedavg import FedAvg


class QuantizationRobust(FedAvg):
    """Averages like FedAvg."""

    method = "quantization_robust"
