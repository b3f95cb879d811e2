"""FedProx: FedAvg's server; what is special happens at the client (Li et al., arXiv 1812.06127)."""

from .fedavg import FedAvg


class FedProx(FedAvg):
    """Averages like FedAvg."""

    method = "fedprox"
