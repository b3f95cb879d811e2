"""FRL's server: each client votes by the order of its scores, and the sum of places is the next order (arXiv 2110.04350)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

import numpy as np

from fedwarm.coding.orders import places
from fedwarm.core.arrays import Arrays
from fedwarm.core.payload import Payload
from fedwarm.methods.frl import ORDERS
from fedwarm.methods.frl import Frl as Settings
from fedwarm.rounds.server import BaseStrategy, Stage
from fedwarm.sparse.packing import Bytes
from fedwarm.sparse.supermask import Orders, Supermask

ROUND = "round"


class Frl(BaseStrategy):
    """R(j) = sum_k (place of j in the order of client k), next order = argsort R; one vote a client, however much it holds."""

    method = "frl"
    sends_all = True  # its arrays follow from an order
    packed: Bytes | None = None  # the order as it travels, from which all else follows

    @cached_property
    def network(self) -> Supermask:
        return self.config.of(Settings).network(self.new_model(), self.config.run.seed)

    def initial_arrays(self) -> Arrays:
        return self.network.state(self.network.first)

    def plan(self) -> Iterator[Stage]:
        if self.packed is None:
            self.rank(self.network.first)
        yield from super().plan()

    def rank(self, orders: Orders) -> None:
        """Take orders as the model's."""
        self.packed, self.arrays = self.network.packed(orders), self.network.state(orders)

    # A round

    def instruct(self, stage: Stage, client: int) -> Payload:
        assert self.packed is not None
        return Payload("words", {ORDERS: self.packed}, {"round": stage.round})

    def expected(self, stage: Stage) -> Arrays:
        return {ORDERS: np.zeros(self.network.bytes, np.uint8)} if stage.name == ROUND else {}

    def numbers(self, expected: Arrays) -> int:
        return sum(theta.size for theta in self.network.weights.values())

    def begin(self, stage: Stage) -> None:
        self.votes = {name: np.zeros(theta.size, np.int64) for name, theta in self.network.weights.items()}

    def check(self, stage: Stage, payload: Payload) -> None:
        super().check(stage, payload)
        if stage.name == ROUND:
            self.taken = self.network.read(payload.arrays[ORDERS])

    def absorb(self, stage: Stage, client: int, payload: Payload) -> None:
        if stage.name == ROUND:
            for name, order in self.taken.items():
                self.votes[name] += places(order)

    def finish(self, stage: Stage) -> None:
        if stage.name == ROUND:
            self.rank({name: np.argsort(votes, kind="stable") for name, votes in self.votes.items()})

    # What a checkpoint holds

    def state(self) -> dict[str, Arrays]:
        return {**super().state(), **({} if self.packed is None else {ORDERS: {ORDERS: self.packed}})}

    def restore(self, parts: Mapping[str, Arrays], facts: Mapping[str, Any]) -> None:
        super().restore(parts, facts)
        if ORDERS in parts:
            self.packed = parts[ORDERS][ORDERS].astype(np.uint8)
