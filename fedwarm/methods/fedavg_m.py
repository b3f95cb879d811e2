"""FedAvg-M: Cheng, Huang, Wu, Yuan, "Momentum Benefits Non-IID Federated Learning Simply and Provably", ICLR 2024,
arXiv 2306.16504. It is not the server momentum that is called FedAvgM (Hsu, Qi, Brown, arXiv 1909.06335).

Local steps follow beta times the own gradient and (1 - beta) times the direction in which all clients moved in the round before.
"""

from __future__ import annotations

from dataclasses import dataclass

from fedwarm.methods import Method
from fedwarm.training.directions import Mixture, directed


@dataclass(frozen=True)
class FedAvgM(Mixture, prefix="fedavg-m"):
    """Settings of FedAvg-M."""


COMPONENT = Method(
    "FedAvgM",
    "momentum of the server inside every local step (Cheng et al., 2024)",
    FedAvgM,
    preset={"momentum": 0.0, "learning-rate": 0.1},
    does=lambda run: {"weighs": False},
    validate=directed,
    refuses={"optimiser": "works its direction out of steps of SGD"},
)
