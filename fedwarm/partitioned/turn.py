"""A client's turn in a round: the gradient of psi on the weights as they came, then training, in no other order."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fedwarm.core.arrays import Arrays
from fedwarm.partitioned.masks import Layout
from fedwarm.partitioned.networks import Subnetwork
from fedwarm.partitioned.psi import Floats, Psi

Score = Callable[[nn.Module, Floats], Floats]


def digest_of(arrays: Arrays) -> str:
    """A hash of named arrays."""
    found = hashlib.sha256()
    for name in sorted(arrays):
        found.update(name.encode() + np.ascontiguousarray(arrays[name]).tobytes())
    return found.hexdigest()


class Turn:
    """One client's round. Its gradient is taken as it is made, and is the only one that it ever gives; what trains comes after.

    Args:
        layout: the partitions.
        received: the whole network's arrays as they came; partitions that did not come have any values.
        network: makes a module of arrays.
        score: the gradient (m,) in psi of this client's loss under a network; None: none is asked for.
        unseen: the subnetwork k that the gradient is taken on.
        values: psi (m,).

    Attributes:
        gradient: d/dpsi of the client's loss under w^(k) as received (m,); None where none was asked for.
        digest: `digest_of` the w^(k) that it was taken on; empty where none was.
        parts: the partitions trained so far, packed.
    """

    def __init__(
        self, layout: Layout, received: Arrays, network: Callable[[Arrays], nn.Module], score: Score | None, unseen: int,
        values: Floats,
    ) -> None:  # fmt: skip
        self._layout, self._network, self._values = layout, network, values
        self._gradient, self._digest = None, ""
        if score is not None:
            fixed = layout.subnetwork(received, unseen)
            self._digest = digest_of(fixed)
            self._gradient = score(network(fixed).requires_grad_(False), values)
        self._now = received
        self.parts: dict[int, NDArray[np.generic]] = {}

    @property
    def gradient(self) -> Floats | None:
        return self._gradient

    @property
    def digest(self) -> str:
        return self._digest

    def subnetwork(self, partition: int, psi: Psi, draws: torch.Generator) -> Subnetwork:
        """w^(j) with partition j to train, and what this client trained before in the others' places."""
        body = self._network(self._layout.subnetwork(self._now, partition))
        values = torch.from_numpy(self._values).to(next(body.parameters()).device)
        return Subnetwork(body, self._layout.mask(partition), psi, values, draws)

    def keep(self, partition: int, trained: Subnetwork) -> None:
        """Take up what was trained."""
        self.parts[partition] = trained.packed()
        self._now = self._layout.placed(self._now, {partition: self.parts[partition]})


def locally(score: Score, steps: int, rate: float) -> Score:
    """As `score`, of how far so many steps of gradient descent on psi come, with its sign turned: psi is to be lowered by it."""

    def moved(network: nn.Module, values: Floats) -> Floats:
        now = values
        for _ in range(steps):
            now = now - rate * score(network, now)
        return values - now

    return score if not steps else moved
