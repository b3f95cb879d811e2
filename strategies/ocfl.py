"""OCFL's server: FedAvg, until the temperature rises and clients are clustered; then FedAvg in each cohort (arXiv 2509.01587)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flwr.app import MessageType

from fedwarm.aggregators import Aggregator, Robust, aggregator, needs
from fedwarm.core.arrays import Arrays
from fedwarm.core.cosines import cosine_distances, products, temperature
from fedwarm.core.norms import Floats
from fedwarm.core.payload import Payload
from fedwarm.core.told import in_one, numbered
from fedwarm.methods.ocfl import GLOBAL
from fedwarm.methods.ocfl import Ocfl as Settings
from fedwarm.norms import weights
from fedwarm.record.folder import RunFolder
from fedwarm.record.ledger import EVALUATE
from fedwarm.rounds.chosen import able
from fedwarm.rounds.experts import EXPERT
from fedwarm.rounds.server import BaseStrategy, Stage
from fedwarm.settings.config import Config
from fedwarm.settings.fields import Value

COHORTS, PARENT = "cohorts", "parent"


class Ocfl(BaseStrategy):
    """K models under the names `expert-<k>/<name>`, one until clients are clustered; who is in which cohort stays.

    A client that was not there when clients were clustered is sent the model that all cohorts began with. Its first update says
    whose it is: that of the cohort which moved from there in the most alike direction; its model counts from the next round on.
    """

    method = "ocfl"
    sends_all = True

    def __init__(self, config: Config | None = None, folder: RunFolder | None = None, **settings: Value) -> None:
        super().__init__(config, folder, **settings)
        self.settings = self.config.of(Settings)
        self.how, self.noise = self.settings.how, self.settings.noise
        self.temperatures: list[float | None] = []
        self.cohorts: dict[int, int] = {}
        self.divided: int | None = None
        self.rest: int | None = None
        self.parent: Arrays = {}

    def initial_arrays(self) -> Arrays:
        return in_one({0: super().initial_arrays()}, EXPERT)

    def sampled(self, number: int) -> tuple[int, ...]:
        """All that can train until they are clustered."""
        chosen = super().sampled(number)
        return able(self.halves, self.everyone) if self.divided is None else chosen

    def evaluation(self, number: int) -> Stage:
        return Stage(number, EVALUATE, MessageType.EVALUATE, self.everyone, number)

    @property
    def models(self) -> list[Arrays]:
        """Those of the cohorts."""
        return [*numbered(self.arrays, EXPERT).values()]

    def new(self, client: int) -> bool:
        """Whether there are cohorts, and it is not known whose this client is."""
        return bool(self.parent) and client not in self.cohorts

    def model_of(self, client: int) -> Arrays:
        """The model of a client's cohort; of a new client that with which they began."""
        return self.parent if self.new(client) else self.models[self.cohorts.get(client, 0)]

    def instruct(self, stage: Stage, client: int) -> Payload:
        return Payload("weights", self.model_of(client), {"round": stage.round})

    def expected(self, stage: Stage) -> Arrays:
        return self.models[0] if stage.name == "round" else {}

    def expected_of(self, stage: Stage, client: int, payload: Payload, expected: Arrays) -> Arrays:
        return self.model_of(client) if stage.name == "round" else expected

    def reference(self, stage: Stage, client: int) -> Arrays:
        return self.model_of(client) if stage.name == "round" else super().reference(stage, client)

    @property
    def fewest(self) -> int:
        return 1 if self.parent else super().fewest  # a cohort with too few replies stays as it is

    def begin(self, stage: Stage) -> None:
        if stage.name == "round":
            robust = self.config.of(Robust)
            self.means: list[Aggregator] = [aggregator(robust, model) for model in self.models]
            self.replies = [0] * len(self.means)
            self.held: dict[int, Arrays] = {}

    def absorb(self, stage: Stage, client: int, payload: Payload) -> None:
        if stage.name != "round":
            return
        if self.divided is None or self.new(client):
            self.held[client] = payload.arrays
        for k in self.counted(client):
            self.means[k].add(payload.arrays, payload.number("num-examples"))
            self.replies[k] += 1

    def counted(self, client: int) -> set[int]:
        """The cohorts in whose mean a client's model counts."""
        shared = {self.rest} if self.rest is not None and self.noise == GLOBAL else set[int]()
        return set() if self.new(client) else {self.cohorts.get(client, 0), *shared}

    def finish(self, stage: Stage) -> None:
        if stage.name != "round":
            return
        before, robust = self.models, self.config.of(Robust)
        least = needs(robust)
        if any(0 < count < least for count in self.replies):
            self.record.remark(f"robust.rule = {robust.rule!r} needs {least} replies: a cohort with fewer stays as it is")
        each = zip(self.means, before, self.replies, strict=True)
        after = [mean.result() if count >= least else model for mean, model, count in each]
        self.arrays = in_one(dict(enumerate(after)), EXPERT)
        if self.divided is None:
            self.watch(stage.round, self.distances([*self.held.values()], before[0]))
        for client, arrays in self.held.items():
            if self.new(client):
                self.cohorts[client] = int(self.distances([arrays, *after], self.parent)[0, 1:].argmin())
        self.held = {}
        clients = [None if self.new(c) or self.divided is None else self.cohorts.get(c, 0) for c in self.partitions]
        told = {"clients": clients, "round": self.divided, "temperature": [*self.temperatures], "noise": self.rest}
        self.record.found(COHORTS, told)

    def distances(self, replies: list[Arrays], start: Arrays) -> Floats:
        """Cosine distances (n, n) of updates, over the weights that are trained."""
        return cosine_distances(products(replies, start, weights(start)))

    def watch(self, number: int, distances: Floats) -> None:
        """Cluster the clients of this round where the temperature rose."""
        now, last = temperature(distances), self.temperatures[-1] if self.temperatures else None
        self.temperatures.append(now)
        if number < self.settings.earliest or now is None or last is None or now <= last:
            return
        self.divided = number
        found, self.rest = self.how.of(distances)
        sizes = [found.count(k) for k in range(max(found) + 1)]
        if len(sizes) > 1:
            self.cohorts, self.parent = dict(zip(self.held, found, strict=True)), self.models[0]
            self.arrays = in_one(dict.fromkeys(range(len(sizes)), self.parent), EXPERT)
        self.record.note(
            f"after round {number} the temperature rose from {last:.4f} to {now:.4f}; clients were divided into "
            f"{len(sizes)} cohort{'s' * (len(sizes) > 1)} of {', '.join(map(str, sizes))}"
        )

    def state(self) -> dict[str, Arrays]:
        return {**super().state(), **({PARENT: self.parent} if self.parent else {})}

    def facts(self) -> dict[str, Any]:
        told = {"temperatures": self.temperatures, "divided": self.divided, "rest": self.rest}
        return {**told, COHORTS: {str(client): k for client, k in self.cohorts.items()}}

    def restore(self, parts: Mapping[str, Arrays], facts: Mapping[str, Any]) -> None:
        super().restore(parts, facts)
        self.temperatures, self.divided, self.rest = list(facts["temperatures"]), facts["divided"], facts["rest"]
        self.cohorts = {int(client): int(k) for client, k in facts[COHORTS].items()}
        self.parent = dict(parts.get(PARENT, {}))
