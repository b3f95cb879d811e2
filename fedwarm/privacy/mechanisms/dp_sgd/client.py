"""DP-SGD's half at a client: the mechanism of its trainings, and the account of the steps that they took."""

from __future__ import annotations

import torch

from fedwarm.data.node import Node
from fedwarm.parts import ClientPart, Planned
from fedwarm.privacy.levels import Level, Reasons
from fedwarm.privacy.mechanisms.dp_sgd.account import DpSgd, Steps, example_epsilon, rate_of
from fedwarm.privacy.mechanisms.dp_sgd.gradient import Mechanism, source_of
from fedwarm.settings.config import Config

ACCOUNT = "account"


class DpSgdClient(ClientPart):
    """Keeps the account in the client's own store."""

    def __init__(self, config: Config, node: Node) -> None:
        self.own, self.seed, self.node = config.of(DpSgd), config.run.seed, node

    def tells(self, level: Level) -> Reasons:
        """Epsilon follows from settings and from how many images a client holds."""
        return {"epsilon": "follows from settings and numbers of images, which are public"} if level < Level.CLIENT else {}

    def withholds(self, level: Level) -> frozenset[str]:
        return frozenset({"epsilon"} if level == Level.CLIENT else ())

    def mechanism(self, planned: Planned, purpose: str, number: int) -> Mechanism:
        source = source_of(self.own, self.seed, purpose, number, self.node.partition)
        steps = [(rate_of(examples, batch_size), count) for examples, batch_size, count in planned()]
        return Mechanism.of(self.own, steps, source)

    def spend(self, receipt: Steps, number: int) -> None:
        """Book steps; what is trained anew for a message that is sent again is booked again, unless its draws are the same."""
        again = number if self.own.entropy == "seeded" else None
        taken = [*self._account(again), receipt]
        rows = torch.tensor([[s.rate, s.noise_multiplier, s.count] for s in taken], dtype=torch.float64)
        self.node.store.save(ACCOUNT, {"steps": rows}, number)

    def spent(self) -> dict[str, float]:
        """`epsilon` of an example so far."""
        return {"epsilon": example_epsilon(self._account(), self.own.delta)}

    def _account(self, before: int | None = None) -> list[Steps]:
        found = self.node.store.load(ACCOUNT, before=before)
        return [Steps(rate, noise, int(count)) for rate, noise, count in found["steps"].tolist()] if found else []
