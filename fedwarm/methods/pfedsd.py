"""pFedSD: Jin, Bai, Yao, Dun, Gu, Yu, Deng, "Personalized Edge Intelligence via Federated Self-Knowledge Distillation", IEEE
Transactions on Parallel and Distributed Systems 34 (2023), doi 10.1109/TPDS.2022.3225185.

A client starts each round at the global model and learns from its data and from its own model of its previous round:
L = CE(f(x), y) + lambda T^2 KL(softmax(g(x)/T) || softmax(f(x)/T)), with g the client's earlier model. What it ends with is its
personal model, and what it sends to be averaged. In its first round there is no g, and it trains plainly.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedwarm.methods import Method
from fedwarm.settings.fields import Group, setting
from fedwarm.training.distill import distillation_term
from fedwarm.training.evaluate import predict
from fedwarm.training.loop import Batch, Hook


@dataclass(frozen=True)
class PFedSd(Group, prefix="pfedsd"):
    """Settings of pFedSD."""

    weight: float = setting(1.0, "lambda, weight of the distillation from a client's earlier model; 0: FedAvg", low=0.0)
    temperature: float = setting(
        1.0, "T, temperature of both models in the distillation", low=1e-3, when=lambda r: r["pfedsd.weight"] > 0
    )


class SelfKnowledge(Hook):
    """Adds lambda T^2 KL(teacher || student) over all examples.

    Args:
        teacher: the client's earlier model; it is not changed.
        images: the training inputs (n, *shape), as `fit` gets them.
    """

    def __init__(self, teacher: nn.Module, settings: PFedSd, images: Tensor) -> None:
        self.settings, self.logits = settings, predict(teacher, images)

    def loss(self, batch: Batch, loss: Tensor) -> Tensor:
        teacher = self.logits[batch.rows.cpu()].to(batch.logits.device)
        every = torch.ones(len(teacher), device=teacher.device)
        return loss + self.settings.weight * distillation_term(batch.logits, teacher, every, self.settings.temperature)


COMPONENT = Method(
    "PFedSd",
    "FedAvg whose clients also learn from their own earlier models, which they keep (Jin et al., 2023)",
    PFedSd,
    does=lambda run: {"personal": True},
    classed=True,
    answered=True,
    refuses={"privacy": "learns from a batch's answers of an earlier model, and no private step covers that"},
)
