"""Federated dropout: Caldas, Konečný, McMahan, Talwalkar, "Expanding the Reach of Federated Learning by Reducing Client Resource
Requirements", arXiv 1812.07210 (2018): each client trains a random part of the network, and parts are averaged group by group.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from fedwarm.methods import Method
from fedwarm.settings.fields import Group, setting
from fedwarm.sparse.gating import Gated
from fedwarm.sparse.groups import Groups, Mask
from fedwarm.sparse.replies import check, validated
from fedwarm.training.loop import Hook


@dataclass(frozen=True)
class FederatedDropout(Group, prefix="federated-dropout"):
    """Settings of federated dropout."""

    keep: float = setting(0.5, "fraction of each layer's units that a client receives and trains", low=0.01, high=1.0)
    scale: bool = setting(
        True, "multiply the remaining units by 1 / keep in training, so that the whole network needs no scaling"
    )


def drawn(groups: Groups, keep: float, draws: np.random.Generator) -> Mask:
    """Of each layer's gates a random share, at least one: (G,)."""
    parts = []
    for site in groups.sites:
        chosen = np.zeros(site.gates, np.bool_)
        chosen[draws.permutation(site.gates)[: max(1, round(keep * site.gates))]] = True
        parts.append(chosen)
    return np.concatenate([np.empty(0, np.bool_), *parts])


class Dropped(Hook):
    """Units that were not sent are 0, the others count by a factor.

    Args:
        groups: of the model.
        sent: those that are there (G,).
        factor: what their units are multiplied by.
    """

    uses = "weights"

    def __init__(self, groups: Groups, sent: Mask, factor: float) -> None:
        self.groups, self.gates = groups, torch.from_numpy(factor * sent.astype(np.float32))
        self.gated: Gated | None = None

    def prepare(self, model: nn.Module) -> None:
        gates: Tensor = self.gates.to(next(model.parameters()).device)
        self.gated = Gated(model, self.groups, lambda: gates)

    def finish(self, model: nn.Module) -> None:
        if self.gated is not None:
            self.gated.remove()


COMPONENT = Method(
    "FederatedDropout",
    "baseline: each client trains a random part of the network (Caldas et al., 2018)",
    FederatedDropout,
    averages=False,
    validate=validated,
    check=check,
    refuses={
        "objective": "trains parts of networks",
        "privacy": "sends parts of networks, whose bytes no account covers",
    },
    layers="Linear and Conv2d",
)
