"""SCAFFOLD's server: mean update and mean change of control variates (Karimireddy et al., arXiv 1910.06378, Alg. 1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from fedwarm.aggregators import Robust, aggregator
from fedwarm.core.arrays import Arrays
from fedwarm.core.payload import Payload
from fedwarm.core.steps import stepped
from fedwarm.core.told import joined, split
from fedwarm.methods.scaffold import CONTROL
from fedwarm.methods.scaffold import Scaffold as Settings
from fedwarm.norms import weights
from fedwarm.rounds.heard import HEARD
from fedwarm.rounds.hearing import Hearing
from fedwarm.rounds.server import Stage


class Scaffold(Hearing):
    """x <- x + eta_g mean(y_k - x), c <- c + |S| / N mean(c_k+ - c_k); clients send y_k and c + c_k+ - c_k."""

    method = "scaffold"
    control: Arrays

    @property
    def settings(self) -> Settings:
        return self.config.of(Settings)

    def instruct(self, stage: Stage, client: int) -> Payload:
        if stage.name != "round":
            return super().instruct(stage, client)
        told: dict[str, int | float] = {"round": stage.round, HEARD: self.heard.get(client, 0)}
        return Payload("weights", joined(self.arrays, self.shared, CONTROL), told)

    @property
    def shared(self) -> Arrays:
        """c, zero before the first round."""
        if not hasattr(self, "control"):
            self.control = {name: np.zeros_like(self.arrays[name]) for name in weights(self.arrays)}
        return self.control

    def expected(self, stage: Stage) -> Arrays:
        return joined(super().expected(stage), self.shared, CONTROL) if stage.name == "round" else {}

    def begin(self, stage: Stage) -> None:
        robust = replace(self.config.of(Robust), clip_norm=0.0)  # which is a length of weights, not of gradients
        self.models, self.controls, self.replies = self.aggregator(), aggregator(robust, self.shared), 0

    def absorb(self, stage: Stage, client: int, payload: Payload) -> None:
        if stage.name == "round":
            model, control = split(payload.arrays, CONTROL)
            self.models.add(model, payload.number("num-examples") if self.settings.weight_by == "examples" else 1.0)
            self.controls.add(control, 1.0)
            self.replies += 1
            self.heard[client] = stage.round

    def finish(self, stage: Stage) -> None:
        if stage.name != "round":
            return
        rate, share = self.settings.server_learning_rate, self.replies / len(self.fleet.members)
        mean = self.models.result()
        moved, _ = stepped(self.arrays, mean, rate)
        self.arrays = {name: moved[name] if name in self.shared else array for name, array in mean.items()}
        self.control, _ = stepped(self.shared, self.controls.result(), share)

    def state(self) -> dict[str, Arrays]:
        return {**super().state(), "control": self.shared}

    def restore(self, parts: Mapping[str, Arrays], facts: Mapping[str, Any]) -> None:
        super().restore(parts, facts)
        self.control = dict(parts["control"])
