"""DP-SGD's half at a client: the mechanism of its trainings, and the account of the steps that they took."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from fedwarm.core.refusals import EPSILON, RefusalError
from fedwarm.data.node import Node
from fedwarm.parts import ClientPart, Planned
from fedwarm.privacy.levels import Level, Reasons
from fedwarm.privacy.limits import Limits
from fedwarm.privacy.mechanisms.dp_sgd.account import DpSgd, Steps, example_epsilon, rate_of
from fedwarm.privacy.mechanisms.dp_sgd.gradient import Mechanism, source_of
from fedwarm.settings.config import Config

ACCOUNT = "account"
ROUNDING = 1e-6
Entry = dict[str, Any]


class DpSgdClient(ClientPart):
    """Keeps the account in the client's own store, and trains nothing that would pass the target or the node's limits."""

    def __init__(self, config: Config, node: Node) -> None:
        self.own, self.limits, self.seed, self.node = config.of(DpSgd), config.of(Limits), config.run.seed, node
        self.purpose, self.number = "", 0

    def tells(self, level: Level) -> Reasons:
        """Epsilon follows from settings and from how many images a client holds."""
        return {"epsilon": "follows from settings and numbers of images, which are public"} if level < Level.CLIENT else {}

    def withholds(self, level: Level) -> frozenset[str]:
        return frozenset({"epsilon"} if level == Level.CLIENT else ())

    def mechanism(self, planned: Planned, purpose: str, number: int) -> Mechanism:
        self.purpose, self.number = purpose, number
        source = source_of(self.own, self.seed, purpose, number, self.node.partition)
        steps = [(rate_of(examples, batch_size), count) for examples, batch_size, count in planned()]
        return replace(Mechanism.of(self.own, steps, source), allowed=self.allow)

    def allow(self, steps: Steps) -> None:
        """Refuse a training that the account or the node's limits have no room for.

        Raises:
            RefusalError: which of them; nothing was trained.
        """
        seeded, target = self.own.entropy == "seeded", self.own.target_epsilon
        self.limits.check_run(private=True, system=not seeded)
        self.limits.check_noise(steps.noise_multiplier)
        entries = [each for each in self._entries() if not (seeded and self._same(each))]
        self.limits.check_count(len(entries))
        reached = example_epsilon([*map(_steps, entries), steps], self.own.delta)
        if target and reached > target * (1 + ROUNDING):
            said = f"dp-sgd.target-epsilon is {target:g}, and one more training would come to {reached:.4g}"
            raise RefusalError(EPSILON, f"{said}; a training that was asked for again counts again")
        if self.limits.most_epsilon:
            everything = [_steps(entry) for run in self.node.store.booked_of_all(ACCOUNT) for entry in run]
            self.limits.check_epsilon(example_epsilon([*everything, steps], self.limits.delta))

    def spend(self, receipt: Steps, number: int) -> None:
        """Book steps; what is trained anew for a message that is sent again is booked again, unless its draws are the same."""
        self._adopt()
        if self.own.entropy == "seeded" and any(self._same(entry) for entry in self._entries()):
            return
        told = {"rate": receipt.rate, "noise": receipt.noise_multiplier, "count": receipt.count}
        self.node.store.book(ACCOUNT, {"what": self.purpose, "number": number, **told})

    def spent(self) -> dict[str, float]:
        """`epsilon` of an example so far."""
        seeded = self.own.entropy == "seeded"
        entries = [entry for entry in self._entries() if not seeded or int(entry["number"]) <= self.number]
        return {"epsilon": example_epsilon(map(_steps, entries), self.own.delta)}

    def _same(self, entry: Entry) -> bool:
        """Whether an entry is of the training that is asked for now."""
        return entry["what"] == self.purpose and int(entry["number"]) == self.number

    def _entries(self) -> list[Entry]:
        """What was booked in this run; of one that was begun before accounts were lines, its last state."""
        return self.node.store.booked(ACCOUNT) or list(self._old())

    def _adopt(self) -> None:
        """Take over what a run booked that was begun before accounts were lines."""
        for entry in self._old() if not self.node.store.booked(ACCOUNT) else ():
            self.node.store.book(ACCOUNT, entry)

    def _old(self) -> Iterable[Entry]:
        found = self.node.store.load(ACCOUNT)
        for rate, noise, count in found["steps"].tolist() if found else ():
            yield {"what": "", "number": 0, "rate": rate, "noise": noise, "count": int(count)}


def _steps(entry: Entry) -> Steps:
    return Steps(float(entry["rate"]), float(entry["noise"]), int(entry["count"]))
