"""Partitioned hyperparameter optimisation's server: each partition is averaged over those who trained it, psi goes by Adam.

It holds the whole network, psi in float64 and Adam's moments; partitions, defaults and chunks follow from the seed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

import numpy as np
import torch

from fedwarm.aggregators import Aggregator, Robust, aggregator
from fedwarm.core.arrays import Arrays
from fedwarm.core.payload import Payload
from fedwarm.core.seeds import generator
from fedwarm.methods.partitioned_hpo import PARTITION, PSI, VALUES
from fedwarm.methods.partitioned_hpo import PartitionedHpo as Settings
from fedwarm.partitioned.adam import Adam
from fedwarm.partitioned.masks import Layout
from fedwarm.partitioned.networks import Predictor
from fedwarm.partitioned.psi import Floats, Psi, text_of
from fedwarm.rounds.server import BaseStrategy, Stage
from fedwarm.sparse.replies import refuse_statistics

ROUND = "round"


class PartitionedHpo(BaseStrategy):
    """w_k <- mean of w_k over the clients that trained it, psi <- Adam along the mean of the gradients on unseen chunks."""

    method = "partitioned_hpo"
    sends_all = True  # its networks share what is not trained, too
    values: Floats

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.adam, self.curve = Adam(self.settings.rate), list[dict[str, Any]]()

    @property
    def settings(self) -> Settings:
        return self.config.of(Settings)

    @cached_property
    def found(self) -> tuple[Psi, Floats]:
        """The hyperparameters and their first values."""
        return self.settings.psi_of(self.fleet.image_size)

    @cached_property
    def layouts(self) -> dict[bool, Layout]:
        """The partitions of the network, and those of one that is trained whole."""
        initial = super().initial_arrays()
        return {whole: self.settings.layout(initial, self.config.run.seed, whole) for whole in (False, True)}

    @cached_property
    def chunks(self) -> list[int]:
        """The chunk of each client."""
        return [int(k) for k in self.settings.chunk_table(len(self.fleet.members), self.config.run.seed)]

    def initial_arrays(self) -> Arrays:
        self.values = self.found[1]
        return super().initial_arrays()

    def plan(self) -> Iterator[Stage]:
        refuse_statistics(dict(self.new_model().named_buffers()))
        if not hasattr(self, "values"):
            self.values = self.found[1]
        yield from super().plan()

    # A round

    def whole(self, stage: Stage) -> bool:
        """Whether the network is trained whole in a round, and psi stays."""
        return self.settings.whole(stage.round, self.config.run.num_server_rounds)

    def named(self, layout: Layout, partitions: range) -> Arrays:
        """Partitions as they travel."""
        return {f"{PARTITION}{k}": layout.packed(self.arrays, k) for k in partitions}

    def psi(self) -> Arrays:
        """Psi as it travels; nothing where there is none."""
        return {VALUES: self.values.astype(np.float32)} if len(self.values) else {}

    def instruct(self, stage: Stage, client: int) -> Payload:
        if stage.name != ROUND:
            return Payload("weights", {**self.arrays, **self.psi()}, {"round": stage.round})
        whole = self.whole(stage)
        parts = range(1, 2) if whole else self.settings.gets(self.chunks[client])
        return Payload("weights", {**self.named(self.layouts[whole], parts), **self.psi()}, {"round": stage.round})

    def expected(self, stage: Stage) -> Arrays:
        if stage.name != ROUND:
            return {}
        layout = self.layouts[self.whole(stage)]
        return {**self.named(layout, range(1, layout.count + 1)), **self.psi()}

    def expected_of(self, stage: Stage, client: int, payload: Payload, expected: Arrays) -> Arrays:
        if stage.name != ROUND:
            return expected
        if self.whole(stage):
            return {name: array for name, array in expected.items() if name != VALUES}
        chunk = self.chunks[client]
        scored = len(self.values) > 0 and self.settings.scores(chunk, stage.round) >= 0
        sent = {f"{PARTITION}{k}" for k in self.settings.trains(chunk)} | ({VALUES} if scored else set())
        return {n: np.zeros_like(a) if n == VALUES else a for n, a in expected.items() if n in sent}

    def begin(self, stage: Stage) -> None:
        self.means: dict[int, Aggregator] = {}
        self.slopes: list[tuple[Floats, float]] = []
        self.sent = self.expected(stage)

    def absorb(self, stage: Stage, client: int, payload: Payload) -> None:
        if stage.name != ROUND:
            return
        weight = payload.number("num-examples")
        for name, array in payload.arrays.items():
            if name == VALUES:
                self.slopes.append((array.astype(np.float64), weight))
                continue
            k = int(name.removeprefix(PARTITION))
            if k not in self.means:
                self.means[k] = aggregator(self.config.of(Robust), {name: self.sent[name]})
            self.means[k].add({name: array}, weight)

    def finish(self, stage: Stage) -> None:
        if stage.name != ROUND:
            return
        whole = self.whole(stage)
        layout, settings = self.layouts[whole], self.settings
        results = {k: mean.result()[f"{PARTITION}{k}"] for k, mean in self.means.items()}
        self.arrays = layout.placed(self.arrays, results)
        self.step(stage)
        if missing := sorted({*range(1, layout.count + 1)} - results.keys()):
            self.record.remark(f"no client trained partition {missing[0]} in round {stage.round}; it stays as it was")
        if stage.round + 1 == settings.whole_from(self.config.run.num_server_rounds) and settings.final == "retrain":
            self.arrays = super().initial_arrays()

    def step(self, stage: Stage) -> None:
        """Take psi a step, and put it down."""
        if not self.slopes:
            return
        total = sum(weight for _, weight in self.slopes)
        slope = np.sum([gradient * (weight / total) for gradient, weight in self.slopes], axis=0)
        if self.settings.psi_local_steps:
            self.values = self.values - slope
        else:
            self.values, self.adam = self.adam.step(self.values, slope)
        self.curve.append({"round": stage.round, "values": [float(f"{value:.6g}") for value in self.values]})
        later = {
            "partitioned-hpo.chunks": 1,
            "partitioned-hpo.learn": self.settings.learn,
            "partitioned-hpo.psi": text_of(self.values),
        }
        self.record.found(PSI, {"names": self.found[0].labels, "rounds": self.curve, "settings": later})

    def predicting(self, model: Any) -> Any:
        seed, values = self.config.run.seed, torch.from_numpy(self.values).to(next(model.parameters()).device)
        return Predictor(model, self.found[0], values, self.settings.samples, lambda: generator(seed, "predict"))

    # What a checkpoint holds

    def state(self) -> dict[str, Arrays]:
        held = {"values": self.values, "mean": self.adam.mean, "square": self.adam.square}
        return {**super().state(), PSI: {**held}}

    def facts(self) -> dict[str, Any]:
        return {"curve": self.curve, "steps": self.adam.steps}

    def restore(self, parts: Mapping[str, Arrays], facts: Mapping[str, Any]) -> None:
        super().restore(parts, facts)
        held = {name: array.astype(np.float64) for name, array in parts[PSI].items()}
        self.values, self.curve = held["values"], list(facts["curve"])
        self.adam = Adam(self.settings.rate, held["mean"], held["square"], int(facts["steps"]))
