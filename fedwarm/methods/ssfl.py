"""SSFL: Ohib, Thapaliya, Dziugaite, Liu, Calhoun, Plis, "SSFL: Discovering Sparse Unified Subnetworks at Initialization for
Efficient Federated Learning", arXiv 2405.09037 (2024): before training, clients say which weights their loss hangs on, and only
those are trained.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedwarm.methods import Method
from fedwarm.models import to_input
from fedwarm.settings.fields import Group, setting
from fedwarm.sparse.replies import check, validated
from fedwarm.tasks import Task
from fedwarm.training.dropout import layers_draw

MASK = "mask"


@dataclass(frozen=True)
class Ssfl(Group, prefix="ssfl"):
    """Settings of SSFL."""

    density: float = setting(0.2, "fraction of the model's weights that are trained and sent", low=1e-4, high=1.0)
    images: int = setting(256, "images of a client, at most, that decide which weights matter", low=1)


def saliency(model: nn.Module, images: Tensor, labels: Tensor, task: Task, draws: torch.Generator) -> dict[str, Tensor]:
    """|g w| by element, of the mean loss of some images (uint8 (n, 3, S, S)): what a weight's loss would change the loss by."""
    with layers_draw(draws, images.device):
        loss = task.loss(task.outputs(model, to_input(images), draws), labels)
    names, weights = zip(*model.named_parameters(), strict=True)
    found = torch.autograd.grad(loss, weights)
    return {name: (g * w).abs().detach() for name, g, w in zip(names, found, weights, strict=True)}


COMPONENT = Method(
    "Ssfl",
    "baseline: one sparse part of the network, chosen before training, is trained and sent (Ohib et al., 2024)",
    Ssfl,
    averages=False,
    validate=validated,
    check=check,
    refuses={
        "objective": "trains a part of the weights",
        "privacy": "tells which weights a client's loss hangs on",
        "model.train": "chooses what is trained itself",
    },
)
