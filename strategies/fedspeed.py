"""FedSpeed's server: the mean of what clients send, with equal weights; by setting it remembers their drifts itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from fedwarm.core.arrays import Arrays
from fedwarm.core.payload import Payload
from fedwarm.methods.fedspeed import FedSpeed as Settings
from fedwarm.norms import weights
from fedwarm.objectives import is_learned
from fedwarm.rounds.heard import HEARD
from fedwarm.rounds.hearing import Hearing
from fedwarm.rounds.server import Stage

from .fedavg import FedAvg

DRIFT = "drift"


class FedSpeed(Hearing, FedAvg):
    """x <- mean (x_k + h_k); with `fedspeed.server = memory` x <- mean x_k + 1/N sum over all clients of h_k."""

    method = "fedspeed"
    drift: Arrays | None = None

    def instruct(self, stage: Stage, client: int) -> Payload:
        sent = super().instruct(stage, client)
        if stage.name != "round" or not self.config.of(Settings).correction:
            return sent
        return replace(sent, metrics={**sent.metrics, HEARD: self.heard.get(client, 0)})

    @property
    def drifted(self) -> Arrays:
        """The mean of all clients' drifts, zero before the first round, in float64."""
        if self.drift is None:
            self.drift = {name: np.zeros(self.arrays[name].shape) for name in weights(self.arrays) if not is_learned(name)}
        return self.drift

    def begin(self, stage: Stage) -> None:
        super().begin(stage)
        self.replies = 0

    def absorb(self, stage: Stage, client: int, payload: Payload) -> None:
        if stage.name == "round":
            self.mean.add(payload.arrays, 1.0)
            self.replies += 1
            self.heard[client] = stage.round

    def finish(self, stage: Stage) -> None:
        before = self.arrays
        super().finish(stage)
        if stage.name != "round" or not self.config.of(Settings).remembers:
            return
        share, mean = self.replies / len(self.fleet.members), self.arrays
        moved = {name: mean[name].astype(np.float64) - before[name].astype(np.float64) for name in self.drifted}
        self.drift = {name: drift.astype(np.float64) + share * moved[name] for name, drift in self.drifted.items()}
        ends = {n: (mean[n].astype(np.float64) + d.astype(np.float64)).astype(mean[n].dtype) for n, d in self.drift.items()}
        self.arrays = {**mean, **ends}

    def state(self) -> dict[str, Arrays]:
        return {**super().state(), **({DRIFT: self.drifted} if self.config.of(Settings).remembers else {})}

    def restore(self, parts: Mapping[str, Arrays], facts: Mapping[str, Any]) -> None:
        super().restore(parts, facts)
        self.drift = dict(parts[DRIFT]) if DRIFT in parts else None
