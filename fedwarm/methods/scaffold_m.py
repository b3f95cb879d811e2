"""SCAFFOLD-M: Cheng, Huang, Wu, Yuan, "Momentum Benefits Non-IID Federated Learning Simply and Provably", ICLR 2024,
arXiv 2306.16504: SCAFFOLD whose corrected gradient has the weight beta beside the server's direction.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from fedwarm.methods import Method
from fedwarm.training.directions import Mixture, directed


@dataclass(frozen=True)
class ScaffoldM(Mixture, prefix="scaffold-m"):
    """Settings of SCAFFOLD-M."""


def unmixed(
    before: Mapping[str, Tensor], after: Mapping[str, Tensor], direction: Mapping[str, Tensor], path: float, beta: float
) -> dict[str, Tensor]:
    """Where steps along the corrected gradient alone would have ended: what the direction did is taken out of x_k.

    Args:
        before, after: x and x_k by name, after steps along beta h + (1 - beta) g.
        direction: g.
        path: eta K.
        beta: the weight of h.
    """
    return {n: x - path * ((x - after[n]) / path - (1 - beta) * direction[n]) / beta for n, x in before.items() if n in direction}


COMPONENT = Method(
    "ScaffoldM",
    "SCAFFOLD with the server's momentum inside every local step (Cheng et al., 2024)",
    ScaffoldM,
    preset={"momentum": 0.0, "learning-rate": 0.1},
    averages=False,
    does=lambda run: {"weighs": False},
    validate=directed,
    refuses={"optimiser": "works its control variates out of steps of SGD"},
)
