"""Gen-FedSD (Morafah et al., arXiv 2405.07925): clients fill their class gaps with synthetic images, then FedAvg."""

from .fedavg import FedAvg


class GenFedSd(FedAvg):
    """FedAvg with `augment = "gen-fedsd"` built in; the settings `gen-fedsd.*` say how."""

    method = "gen_fedsd"
