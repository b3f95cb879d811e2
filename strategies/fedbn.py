"""FedBN's server: it averages and sends all but the tensors of normalisation layers (Li et al., arXiv 2102.07623)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

from fedwarm.core.arrays import Arrays
from fedwarm.core.payload import Payload
from fedwarm.core.told import joined
from fedwarm.methods.fedbn import FIRST
from fedwarm.methods.fedbn import FedBn as Settings
from fedwarm.models import Model
from fedwarm.record.folder import RunFolder
from fedwarm.rounds.server import Stage
from fedwarm.settings.config import Config
from fedwarm.settings.fields import Value

from .fedavg import FedAvg


class FedBn(FedAvg):
    """w <- sum_k n_k / n w_k for all names but the kept ones.

    Where the first weights are read from a file, which clients do not have, a client is sent the kept tensors as they are in it
    until it has trained once.
    """

    method = "fedbn"

    def __init__(self, config: Config | None = None, folder: RunFolder | None = None, **settings: Value) -> None:
        super().__init__(config, folder, **settings)
        self.trained: set[int] = set()

    @cached_property
    def first(self) -> Arrays:
        """The kept tensors of the shared initialisation."""
        return self.config.of(Settings).first(self.new_model())

    def initial_arrays(self) -> Arrays:
        return {name: array for name, array in super().initial_arrays().items() if name not in self.first}

    def instruct(self, stage: Stage, client: int) -> Payload:
        sent = super().instruct(stage, client)
        if client in self.trained or not self.config.of(Model).weights:
            return sent
        return replace(sent, arrays=joined(sent.arrays, self.first, FIRST))

    def absorb(self, stage: Stage, client: int, payload: Payload) -> None:
        super().absorb(stage, client, payload)
        if stage.name == "round":
            self.trained.add(client)

    def facts(self) -> dict[str, Any]:
        return {**super().facts(), "trained": sorted(self.trained)}

    def restore(self, parts: Mapping[str, Arrays], facts: Mapping[str, Any]) -> None:
        super().restore(parts, facts)
        self.trained = set(facts["trained"])
