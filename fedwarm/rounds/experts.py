"""The server of several models, of which each client trains some: each becomes the mean over those who trained it.

A client's reply holds the models that it trained and no others (a copy would be averaged like a trained one), says which these
are (`trained`), and how many of its images each of those that it was sent is responsible for (`mass-<k>`): its share in the mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flwr.app import MessageType

from fedwarm.aggregators import Aggregator, Robust, aggregator, needs
from fedwarm.core.arrays import Arrays, from_module
from fedwarm.core.norms import update_norm
from fedwarm.core.payload import Fact, Payload, PayloadError
from fedwarm.core.seeds import derive
from fedwarm.core.steps import stepped
from fedwarm.core.told import in_one, joined, numbered, split
from fedwarm.models import Model, build_model
from fedwarm.record.ledger import EVALUATE
from fedwarm.rounds.server import BaseStrategy, Stage
from fedwarm.settings.config import Config

EXPERT, SHARED, MASS, PRIOR, TRAINED, EXPERTS, SPEED = "expert", "trunk", "mass", "prior", "trained", "experts", "speed"
USAGE, FULL, DIVERGENCE = "usage", "full", "divergence"
SLACK = 1e-6


class Experts(BaseStrategy):
    """K models under the names `expert-<k>/<name>`, and a part that all share under `trunk/<name>`, where there is one."""

    sends_all = True  # models drawn apart differ in what is not trained, too
    rate, momentum, least_mass = 1.0, 0.0, 0.0
    by_mass = True

    @property
    def count(self) -> int:
        """K."""
        raise NotImplementedError

    def chosen(self, client: int, number: int) -> tuple[int, ...]:
        """The experts that a client is sent in a round, ascending."""
        return tuple(range(self.count))

    def shared(self, names: Arrays) -> frozenset[str]:
        """The names of a model's arrays that all experts share."""
        return frozenset()

    def first(self, k: int) -> Arrays:
        """Expert k at the start, whole: the first is the run's shared initialisation, the others are drawn like it."""
        return from_module(self.new_model()) if k == 0 else self.drawn(derive(self.config.run.seed, EXPERT, k))

    def drawn(self, seed: int) -> Arrays:
        """A model with first weights of another seed."""
        return from_module(build_model(self.config.of(Model), self.width, self.fleet.form, seed, say=self.record.remark))

    def __init__(self, config: Config | None = None, folder: Any = None, **settings: Any) -> None:
        super().__init__(config, folder, **settings)
        self.usage: dict[int, list[float]] = {}
        self.full: dict[int, int] = {}
        self.totals: list[list[float]] = []
        self.spreads: list[list[float | None]] = []
        self.speeds: dict[str, Arrays] = {}
        self.answered: dict[int, tuple[int, ...]] = {}

    # What is said

    def initial_arrays(self) -> Arrays:
        found: Arrays = {}
        for k in range(self.count):
            model = self.first(k)
            common = self.shared(model)
            if k == 0:
                found = joined(found, {name: array for name, array in model.items() if name in common}, SHARED)
            found = joined(found, {name: array for name, array in model.items() if name not in common}, f"{EXPERT}-{k}")
        return found

    def of(self, experts: tuple[int, ...]) -> Arrays:
        """The arrays of some experts as they travel, with what all share."""
        wanted = {SHARED, *(f"{EXPERT}-{k}" for k in experts)}
        return {name: array for name, array in self.arrays.items() if name.partition("/")[0] in wanted}

    def prior(self) -> dict[str, float]:
        """The share of all images that each expert is responsible for, as far as clients told; even before they did."""
        totals = [sum(each) for each in zip(*(self.usage[c] for c in sorted(self.usage)), strict=True)] or [1.0] * self.count
        return {f"{PRIOR}-{k}": total / sum(totals) for k, total in enumerate(totals)}

    def instruct(self, stage: Stage, client: int) -> Payload:
        if stage.name == EVALUATE:
            kept: dict[str, Fact] = {EXPERTS: [*self.chosen(client, -1)]}
            return Payload("weights", self.arrays, {"round": stage.round, **self.priors}, kept)
        return Payload("weights", self.of(self.chosen(client, stage.round)), {"round": stage.round, **self.priors})

    def evaluation(self, number: int) -> Stage:
        return Stage(number, EVALUATE, MessageType.EVALUATE, self.everyone, number)

    # What is answered

    def expected_of(self, stage: Stage, client: int, payload: Payload, expected: Arrays) -> Arrays:
        if stage.name != "round":
            return expected
        sent, told = self.chosen(client, stage.round), payload.facts.get(TRAINED, [])
        trained = tuple(k for k in told if isinstance(k, int)) if isinstance(told, list) else ()
        if not trained or trained != told_once(trained) or not {*trained} <= {*sent}:
            raise PayloadError(f"it trained experts {[*trained]}; it was sent {[*sent]}, of which it must train some")
        self.answered[client] = trained
        return self.of(trained)

    def reference(self, stage: Stage, client: int) -> Arrays:
        return self.of(self.answered[client]) if stage.name == "round" else super().reference(stage, client)

    @property
    def fewest(self) -> int:
        return 1  # an expert or a trunk with too few replies stays as it is

    def check(self, stage: Stage, payload: Payload) -> None:
        super().check(stage, payload)
        if stage.name != "round":
            return
        mass = [payload.number(name) for name in payload.metrics if name.startswith(f"{MASS}-")]
        if any(m < 0 for m in mass) or sum(mass) > payload.number("num-examples") * (1 + SLACK):
            raise PayloadError("its experts are responsible for fewer than no images, or for more than it holds")

    def begin(self, stage: Stage) -> None:
        self.priors = self.prior()  # the same for all clients of a stage, whoever has answered
        if stage.name != "round":
            return
        robust = self.config.of(Robust)
        self.means: dict[int, Aggregator] = {k: aggregator(robust, own) for k, own in numbered(self.arrays, EXPERT).items()}
        self.trunk = aggregator(robust, split(self.arrays, SHARED)[1])
        self.replies, self.trunks = dict.fromkeys(self.means, 0), 0
        self.mass = [0.0] * self.count
        self.squares = [(0.0, 0.0)] * self.count
        self.starts = numbered(self.arrays, EXPERT)

    def absorb(self, stage: Stage, client: int, payload: Payload) -> None:
        if stage.name != "round":
            return
        whole, sent = payload.number("num-examples"), self.chosen(client, stage.round)
        private = not any(name.startswith(f"{MASS}-") for name in payload.metrics)
        mass = [float(payload.metrics.get(f"{MASS}-{k}", 0.0)) for k in range(self.count)]
        for k, arrays in numbered(payload.arrays, EXPERT).items():
            weight = whole if private or not self.by_mass else mass[k]
            if weight > 0:
                self.means[k].add(arrays, weight)
                self.replies[k] += 1
                self._longer(k, weight, update_norm(arrays, self.starts[k]))
            self.mass[k] += whole if private else mass[k]
        if trunk := split(payload.arrays, SHARED)[1]:
            self.trunk.add(trunk, whole)
            self.trunks += 1
        if not private:
            self.usage[client] = mass
        if len(sent) == self.count:
            self.full[client] = stage.round

    def finish(self, stage: Stage) -> None:
        if stage.name != "round":
            return
        enough, parts = needs(self.config.of(Robust)), dict(self.starts)
        spreads: list[float | None] = [None] * self.count
        for k, mean in self.means.items():
            if self.replies[k] >= enough and self.mass[k] >= self.least_mass:
                end = mean.result()
                spreads[k] = divergence(*self.squares[k], update_norm(end, parts[k]))
                parts[k] = self.moved(f"{EXPERT}-{k}", parts[k], end)
        self.spreads.append(spreads)
        common = split(self.arrays, SHARED)[1]
        if common and self.trunks >= enough:
            common = self.moved(SHARED, common, self.trunk.result())
        self.arrays = {**joined({}, common, SHARED), **in_one(parts, EXPERT)}
        self.totals.append([round(m, 3) for m in self.mass])
        self._note()

    def _longer(self, k: int, weight: float, length: float) -> None:
        """Count the length of a client's update of an expert."""
        square, total = self.squares[k]
        self.squares[k] = (square + weight * length**2, total + weight)

    def moved(self, part: str, start: Arrays, end: Arrays) -> Arrays:
        """An expert after the server's step."""
        after, self.speeds[part] = stepped(start, end, self.rate, self.momentum, self.speeds.get(part))
        return after

    def _note(self) -> None:
        """Put who uses which expert, and how much each was used by round, into the record."""
        table = [[round(m, 3) for m in self.usage[c]] if c in self.usage else None for c in self.partitions]
        self.record.found(USAGE, {"clients": table, "rounds": self.totals, DIVERGENCE: self.spreads})

    # What a checkpoint holds

    def state(self) -> dict[str, Arrays]:
        return {**super().state(), **{f"{SPEED}-{part}": speed for part, speed in self.speeds.items() if speed}}

    def facts(self) -> dict[str, Any]:
        usage = {str(client): mass for client, mass in self.usage.items()}
        return {USAGE: usage, FULL: {str(c): n for c, n in self.full.items()}, "totals": self.totals, DIVERGENCE: self.spreads}

    def restore(self, parts: Mapping[str, Arrays], facts: Mapping[str, Any]) -> None:
        super().restore(parts, facts)
        self.usage = {int(client): list(mass) for client, mass in facts[USAGE].items()}
        self.full = {int(client): int(number) for client, number in facts[FULL].items()}
        self.totals, self.spreads = ([list(each) for each in facts[name]] for name in ("totals", DIVERGENCE))
        self.speeds = {name.removeprefix(f"{SPEED}-"): dict(part) for name, part in parts.items() if name.startswith(SPEED)}


def divergence(square: float, total: float, mean: float) -> float | None:
    """D = sum_s p_s |update_s - mean|^2 / |mean|^2, out of sum_s w_s |update_s|^2, sum_s w_s and |mean|; None where that is 0."""
    return round(max(0.0, square / total - mean**2) / mean**2, 4) if mean and total else None


def told_once(numbers: tuple[int, ...]) -> tuple[int, ...]:
    """Distinct and ascending."""
    return tuple(sorted(set(numbers)))
