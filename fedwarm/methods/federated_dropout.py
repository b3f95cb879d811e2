"""Federated dropout: Caldas, Konečný, McMahan, Talwalkar, "Expanding the Reach of Federated Learning by Reducing Client Resource
Requirements", arXiv 1812.07210 (2018): each client trains a random part of the network, and parts are averaged group by group.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from fedwarm.core.arrays import Arrays
from fedwarm.methods import Method
from fedwarm.settings.fields import Group, setting
from fedwarm.sparse.gating import Gated
from fedwarm.sparse.groups import Floats, Groups, Mask, Masks
from fedwarm.sparse.mean import GroupMean
from fedwarm.sparse.replies import check, validated
from fedwarm.sparse.sites import Site
from fedwarm.training.loop import Hook


@dataclass(frozen=True)
class FederatedDropout(Group, prefix="federated-dropout"):
    """Settings of federated dropout."""

    keep: float = setting(0.5, "fraction of each layer's units that a client receives and trains", low=0.01, high=1.0)
    scale: bool = setting(
        True,
        "multiply a layer's remaining units by units / units that remain in training, so that the whole network needs no scaling",
    )


def drawn(groups: Groups, keep: float, draws: np.random.Generator) -> Mask:
    """Of each hidden layer's units a random share, at least one: (G,). Inputs of the network are all there."""
    alive = np.ones(groups.count, np.bool_)
    for site, place in groups.places.values():
        if own(groups, site):
            chosen = np.zeros(site.gates, np.bool_)
            chosen[draws.permutation(site.gates)[: max(1, round(keep * site.gates))]] = True
            alive[place] = chosen
        elif (maps := maker(groups, site)) is not None:
            alive[place] = np.repeat(alive[maps[1]], maps[0].units * site.spread)
    return alive


def own(groups: Groups, site: Site) -> bool:
    """Whether a site's units are drawn: not where they are maps that are drawn before, nor the inputs of the network."""
    return maker(groups, site) is None and not (site.inputs and not site.source and site is groups.sites[0])


def maker(groups: Groups, site: Site) -> tuple[Site, slice] | None:
    """The convolution whose maps are a linear layer's inputs, and where its gates stand; None where there is none."""
    found = groups.places.get(f"{site.source}.weight") if site.inputs else None
    return None if found is None or found[0].inputs else found


def factors(groups: Groups, sent: Mask) -> Floats:
    """What each gate (G,) multiplies its unit by, so that the mean over draws is the whole network's: units by units kept."""
    found = sent.astype(np.float64)
    for site, place in groups.places.values():
        if own(groups, site):
            found[place] *= site.gates / sent[place].sum()
    return found


def part(groups: Groups, sent: Mask) -> Masks:
    """Which numbers of the model are there where these gates (G,) are: no row, bias or column of a unit that is not."""
    live = groups.live(groups.closed(sent))
    return {name: mask & chosen for (name, mask), chosen in zip(live.items(), groups.chosen(live, sent).values(), strict=True)}


class PartMean(GroupMean):
    """The mean of each number over the clients that had it; what nobody had stays as it was."""

    def __init__(self, groups: Groups) -> None:
        super().__init__(groups)
        self.counts = {name: np.zeros(shape) for name, shape in groups.shapes.items()}

    def add(self, arrays: Arrays, chosen: Masks, values: Floats, weight: float) -> None:
        for name, total in self.sums.items():
            total += np.where(chosen[name], arrays[name].astype(np.float64) * weight, 0.0)
            self.counts[name] += weight * chosen[name]

    def result(self, before: Arrays) -> Arrays:
        out = dict(before)
        for name, total in self.sums.items():
            count = self.counts[name]
            mean = np.divide(total, count, out=before[name].astype(np.float64), where=count > 0)
            out[name] = mean.astype(before[name].dtype)
        return out


class Dropped(Hook):
    """Units that were not sent are 0, the others count by their factors.

    Args:
        groups: of the model.
        gates: what units are multiplied by (G,).
    """

    uses = "weights"

    def __init__(self, groups: Groups, gates: Floats) -> None:
        self.groups, self.gates = groups, torch.from_numpy(gates.astype(np.float32))
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
        "model.train": "trains parts of networks",
        "privacy": "sends parts of networks, whose bytes no account covers",
    },
    layers="Linear and Conv2d",
)
