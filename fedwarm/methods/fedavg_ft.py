"""FedAvg whose last model each client tunes on its own images, without sending it: the plain baseline of personal models.

Cheng, Chadha, Duchi, "Fine-tuning is Fine in Federated Learning", arXiv 2108.07313.
"""

from __future__ import annotations

from dataclasses import dataclass

from fedwarm.methods import Method
from fedwarm.settings.fields import Group, setting


@dataclass(frozen=True)
class FedAvgFt(Group, prefix="fedavg-ft"):
    """Settings of FedAvg with tuning at the clients."""

    epochs: int = setting(1, "epochs of fine-tuning the last global model at each client", low=1)


COMPONENT = Method(
    "FedAvgFt",
    "baseline: FedAvg, whose last model each client fine-tunes for itself",
    FedAvgFt,
    does=lambda run: {"personal": True},
    stacks=True,
)
