"""Federated SimCLR's server: FedAvg of encoder, projector and label head; each row of the verification head is its client's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedwarm.aggregators import Robust, aggregator
from fedwarm.core.arrays import Arrays, from_module
from fedwarm.core.payload import Payload
from fedwarm.core.told import joined, split
from fedwarm.methods.fed_simclr import OWN, PART, PLACE, ROWS, heads_of, measures_rows, sent
from fedwarm.methods.fed_simclr import FedSimClr as Settings
from fedwarm.models import Model, behead
from fedwarm.record.ledger import EVALUATE
from fedwarm.rounds.server import Stage
from fedwarm.tasks.contrast.bound import bound

from .fedavg import FedAvg

ROUND, FOUND = "round", "bound"
ALWAYS, VERIFIED = ("within", "alignment", "uniformity"), ("first", "second")


class FedSimClr(FedAvg):
    """The heads are the server's own beside the model, which so fits any other method as its start."""

    method = "fed_simclr"
    sends_all = True
    kept: Arrays | None = None

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.curve: list[dict[str, float | int]] = []
        self.told: dict[int, Payload] = {}
        self.rows: dict[int, NDArray[np.generic]] = {}

    @property
    def settings(self) -> Settings:
        return self.config.of(Settings)

    @property
    def heads(self) -> Arrays:
        """All heads with all rows, as they are before the first round."""
        if self.kept is None:
            _, head = behead(self.config.of(Model), self.new_model())
            made = heads_of(self.config, head, len(self.fleet.classes), len(self.fleet.members))
            self.kept = from_module(made)
        return self.kept

    def initial_arrays(self) -> Arrays:
        return {} if self.settings.alone else super().initial_arrays()

    def sampled(self, number: int) -> tuple[int, ...]:
        return self.everyone if self.settings.alone else super().sampled(number)

    def down(self, stage: Stage) -> Arrays:
        """What all clients of a stage are sent: the model and the heads, with those rows that travel."""
        if self.settings.alone:
            return {}
        heads, rows = dict(self.heads), self.settings.rows
        if rows == "codes" or (rows == "sampled" and stage.name != ROUND):
            del heads[ROWS]
        elif rows == "sampled":
            heads[ROWS] = heads[ROWS][list(stage.clients)]
        return joined(self.arrays, heads, PART)

    def place(self, stage: Stage, client: int) -> int:
        """Which of the rows that a client is sent is its own."""
        return stage.clients.index(client) if self.settings.rows == "sampled" else client

    def instruct(self, stage: Stage, client: int) -> Payload:
        place = {PLACE: self.place(stage, client)} if stage.name == ROUND and not self.settings.alone else {}
        return Payload("weights", self.down(stage), {"round": stage.round, **place})

    def expected(self, stage: Stage) -> Arrays:
        return sent(self.down(stage), self.settings, 0) if stage.name == ROUND else {}

    def expected_of(self, stage: Stage, client: int, payload: Payload, expected: Arrays) -> Arrays:
        return self.reference(stage, client)

    def reference(self, stage: Stage, client: int) -> Arrays:
        return sent(self.down(stage), self.settings, self.place(stage, client)) if stage.name == ROUND else {}

    def check(self, stage: Stage, payload: Payload) -> None:
        super().check(stage, payload)
        if stage.measures >= 0 and payload.count("num-test"):
            images = payload.count("bound-images", 1, payload.count("num-test"))
            for name in ALWAYS + VERIFIED * measures_rows(self.settings):
                payload.number(name)
            if measures_rows(self.settings):
                payload.count("correct-client", 0, images)

    def begin(self, stage: Stage) -> None:
        self.told, self.rows = {}, {}
        if stage.name == ROUND and not self.settings.alone:
            averaged, _ = self.parted(self.down(stage))
            self.mean = aggregator(self.config.of(Robust), averaged)

    def parted(self, arrays: Arrays) -> tuple[Arrays, Arrays]:
        """(what is averaged, the rows that are not)."""
        own = {name for name in arrays if name == f"{PART}/{ROWS}" and self.settings.rows != "average"}
        return {n: a for n, a in arrays.items() if n not in own}, {n: arrays[n] for n in own}

    def absorb(self, stage: Stage, client: int, payload: Payload) -> None:
        if stage.name == EVALUATE:
            self.told[client] = payload
        elif not self.settings.alone:
            averaged, rows = self.parted(payload.arrays)
            self.mean.add(averaged, payload.number("num-examples"))
            for array in rows.values():
                self.rows[client] = array[0 if self.settings.rows in OWN else self.place(stage, client)]

    def finish(self, stage: Stage) -> None:
        if stage.name == EVALUATE:
            self.curve.append({"round": stage.round, **self.measured()})
            self.record.found(FOUND, {"rounds": self.curve})
        elif not self.settings.alone:
            self.arrays, heads = split(self.mean.result(), PART)
            self.kept = {**self.heads, **heads}
            rows = np.array(self.kept[ROWS])
            for client, row in self.rows.items():
                rows[client] = row
            self.kept[ROWS] = rows

    def measured(self) -> dict[str, float | int]:
        """The bound and its parts in nats, and how the features lie, over the test images of the clients that answered."""
        told = [payload.metrics for payload in self.told.values() if payload.metrics["num-test"]]
        images = sum(int(metrics["bound-images"]) for metrics in told)
        if not images:
            return {}
        shares = [metrics["bound-images"] / images for metrics in told]

        def column(name: str) -> list[float]:
            return [float(metrics[name]) for metrics in told]

        found: dict[str, float | int] = {name: float(np.dot(shares, column(name))) for name in ALWAYS}
        if not measures_rows(self.settings):
            return found
        parts = bound(shares, column("within"), column("first"), column("second"))
        right = sum(column("correct-client")) / images
        return {**found, "first": parts.first, "second": parts.second, "bound": parts.total, "client_accuracy": right}

    def state(self) -> dict[str, Arrays]:
        return super().state() if self.settings.alone else {**super().state(), PART: self.heads}

    def facts(self) -> dict[str, Any]:
        return {"curve": self.curve}

    def restore(self, parts: Mapping[str, Arrays], facts: Mapping[str, Any]) -> None:
        super().restore(parts, facts)
        self.kept, self.curve = (dict(parts[PART]) if PART in parts else None), list(facts["curve"])
