"""FedSparse's server: it draws the groups that each client is sent, and makes weights and gate probabilities of what comes back.

Hard expectation maximisation (Louizos, Reisser, Soriaga, Welling, arXiv 2111.10192): the M-step goes by group, over the clients
that sent it. Groups whose probability stays low go for good.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedwarm.aggregators import Robust, clipped
from fedwarm.coding.packing import pack_mask
from fedwarm.core.arrays import Arrays
from fedwarm.core.payload import Payload, PayloadError, check_arrays
from fedwarm.core.seeds import numpy_generator
from fedwarm.core.steps import stepped
from fedwarm.methods.fedsparse import FedSparse as Settings
from fedwarm.methods.fedsparse import final
from fedwarm.models import Model
from fedwarm.record.folder import RunFolder
from fedwarm.rounds.server import BaseStrategy, Stage
from fedwarm.settings.config import Config
from fedwarm.settings.fields import Value
from fedwarm.settings.kinds import CODECS
from fedwarm.sparse import packing
from fedwarm.sparse.groups import Groups, Mask, Masks, groups_of
from fedwarm.sparse.history import History
from fedwarm.sparse.mean import GroupMean
from fedwarm.sparse.packing import PACKED, THETA, Reader, from_rounded, from_values, to_numbers, to_values
from fedwarm.sparse.plan import Gates, edge, reached, turned
from fedwarm.sparse.replies import Taken, bits_of, refuse_statistics

ALIVE, SHARED = "alive", "server"
MUCH = 1.25  # what a plan may be missed by before the run says so


class Grouped(BaseStrategy):
    """Groups of weights go to clients and come back, and each is averaged over the clients that sent it."""

    sends_all = True  # what is a group is what the network has
    _live: tuple[Mask, Masks] | None = None

    def __init__(self, config: Config | None = None, folder: RunFolder | None = None, **settings: Value) -> None:
        super().__init__(config, folder, **settings)
        self.bits = bits_of(self.config)
        self.wire_codec = CODECS.load(CODECS.first)(self.config)  # what is packed is rounded in its packing
        self.shared: Arrays = {}

    @property
    def single(self) -> bool:
        """Whether every weight is a group."""
        return False

    @property
    def tells_theta(self) -> bool:
        """Whether clients are sent a number with each group."""
        return False

    @property
    def hears_pi(self) -> bool:
        """Whether they send one."""
        return False

    @cached_property
    def groups(self) -> Groups:
        return groups_of(self.config.of(Model), self.width, self.fleet.form, self.single)

    def plan(self) -> Iterator[Stage]:
        refuse_statistics(dict(self.new_model().named_buffers()))
        if not self.shared:
            self.shared = dict(self.arrays)
            self.theta, self.alive = np.full(self.groups.count, self.first_theta), np.ones(self.groups.count, np.bool_)
        yield from super().plan()

    @property
    def first_theta(self) -> float:
        """theta of all groups before the first round."""
        return 1.0

    # A round

    def drawn(self, number: int, client: int) -> Mask:
        """The groups (G,) that a client is sent in a round: the same whenever it is asked."""
        return self.alive

    def instruct(self, stage: Stage, client: int) -> Payload:
        if stage.name != "round":
            return super().instruct(stage, client)
        mask = self.drawn(stage.round, client)
        pruned = not (self.single or self.alive.all())  # nothing else hangs on a single weight
        theta = to_numbers(self.theta[mask]) if self.tells_theta else b""
        facts = {"round": stage.round, "pruned": int(pruned), **self.told(stage)}
        if theta == theta[: packing.NUMBER_BYTES] * int(mask.sum()) != b"":  # one number for all
            facts, theta = {**facts, THETA: float(np.float16(self.theta[mask][0]))}, b""
        values = to_values(self.shared, self.chosen(mask))
        packed = packing.joined([pack_mask(mask), pack_mask(~self.alive) if pruned else b"", theta, values])
        return Payload("words", {PACKED: packed}, facts)

    def told(self, stage: Stage) -> dict[str, float]:
        """What else clients are told in a round."""
        return {}

    @property
    def live(self) -> Masks:
        """Which numbers of the model are left."""
        if self._live is None or self._live[0] is not self.alive:
            self._live = (self.alive, self.groups.live(self.alive))
        return self._live[1]

    def expected(self, stage: Stage) -> Arrays:
        if stage.name != "round":
            return {}
        most = packing.most_bytes(self.groups.count, self.numbers({}), len(self.arrays))
        return {PACKED: np.zeros(most, np.uint8)}

    def numbers(self, expected: Arrays) -> int:
        return sum(array.size for array in self.arrays.values())

    def expected_of(self, stage: Stage, client: int, payload: Payload, expected: Arrays) -> Arrays:
        if stage.name != "round" or payload.arrays.keys() != {PACKED}:
            return expected
        self.taken = self._taken(self.drawn(stage.round, client), payload.arrays[PACKED])
        return {PACKED: np.zeros(len(payload.arrays[PACKED]), np.uint8)}  # it was read to its end

    def _taken(self, had: Mask, packed: NDArray[np.generic]) -> Taken:
        """A reply's groups.

        Raises:
            ValueError: they are not of those that the client was sent, or not what they must be.
        """
        reader, gates = Reader(packed), had.copy()
        gates[had] = reader.mask(int(had.sum()))
        values = gates.astype(np.float64)
        if self.hears_pi:
            values[gates] = reader.numbers(int(gates.sum()))
        if not ((values >= 0) & (values <= 1)).all():
            raise PayloadError("the probability of a group is not between 0 and 1")
        chosen = self.chosen(gates)
        arrays = from_rounded(reader, self.shared, chosen, self.bits) if self.bits else from_values(reader, chosen)
        reader.end()
        reference = {name: np.where(mask, self.shared[name], np.float32(0)) for name, mask in chosen.items()}
        check_arrays(arrays, reference)
        return Taken(had, values, chosen, arrays, reference)

    def _check_size(self, stage: Stage, arrays: Arrays, expected: Arrays) -> float:
        if stage.name != "round":
            return super()._check_size(stage, arrays, expected)
        return super()._check_size(stage, self.taken.arrays, self.taken.reference)

    def chosen(self, gates: Mask) -> Masks:
        """Which numbers travel with these groups (G,)."""
        return self.groups.chosen(self.live, gates)

    def new_mean(self) -> GroupMean:
        """The mean of a round's replies."""
        return GroupMean(self.groups)

    def begin(self, stage: Stage) -> None:
        if stage.name == "round":
            self.mean = self.new_mean()

    def weight(self, payload: Payload) -> float:
        """What a reply counts for."""
        return payload.number("num-examples")

    def absorb(self, stage: Stage, client: int, payload: Payload) -> None:
        if stage.name == "round":
            arrays = clipped(self.taken.arrays, self.taken.reference, self.config.of(Robust).clip_norm)
            self.mean.add(arrays, self.taken.chosen, self.taken.values, self.weight(payload))

    def finish(self, stage: Stage) -> None:
        if stage.name == "round":
            self.shared = self.mean.result(self.shared)
            self.arrays = self.shared

    # What a checkpoint holds

    def state(self) -> dict[str, Arrays]:
        if not self.shared:
            return super().state()
        return {**super().state(), SHARED: self.shared, THETA: {THETA: self.theta, ALIVE: self.alive}}

    def restore(self, parts: Mapping[str, Arrays], facts: Mapping[str, Any]) -> None:
        super().restore(parts, facts)
        if SHARED in parts:
            self.shared, kept = dict(parts[SHARED]), parts[THETA]
            self.theta, self.alive = kept[THETA].astype(np.float64), kept[ALIVE].astype(np.bool_)


class FedSparse(Grouped):
    """w_g <- sum_s z_sg phi_sg / sum_s z_sg over the clients that sent g, theta_g <- mean_s z_sg over those that had it."""

    method = "fedsparse"

    def __init__(self, config: Config | None = None, folder: RunFolder | None = None, **settings: Value) -> None:
        super().__init__(config, folder, **settings)
        self.history, self.factor, self.settled = History(), 1.0, False

    @property
    def settings(self) -> Settings:
        return self.config.of(Settings)

    @property
    def single(self) -> bool:
        return self.settings.single

    @property
    def moving(self) -> bool:
        """Whether there are gates, and they have not ended."""
        return self.settings.learns and not self.settled

    @property
    def tells_theta(self) -> bool:
        return self.moving

    @property
    def hears_pi(self) -> bool:
        return self.moving and self.settings.up == "logits"

    @property
    def first_theta(self) -> float:
        return self.settings.theta if self.settings.learns else 1.0

    def drawn(self, number: int, client: int) -> Mask:
        if not self.moving or self.settings.down == "dense":
            return self.alive
        draws = numpy_generator(self.config.run.seed, self.method, "down", number, client)
        drawn: Mask = self.alive & (draws.random(self.groups.count) < self.theta)
        return drawn

    def told(self, stage: Stage) -> dict[str, float]:
        return {"price": self.price} if self.moving else {}

    def begin(self, stage: Stage) -> None:
        super().begin(stage)
        if stage.name == "round":
            self.on, self.asked = np.zeros(self.groups.count), np.zeros(self.groups.count)
            if self.moving:
                self.price = self.charged(stage.round)

    def charged(self, number: int) -> float:
        """lambda_0 of a round."""
        found, rounds = self.settings, self.config.run.num_server_rounds
        if found.trains or not found.density:
            return self.factor * found.price(number, rounds, reached(self.groups, self.theta))
        worth = found.worth(self.groups, self.shared, self.theta, self.live)
        return edge(self.groups, worth, self.alive, found.planned(number, rounds))

    def weight(self, payload: Payload) -> float:
        return super().weight(payload) if self.settings.weight_by == "examples" else 1.0

    def absorb(self, stage: Stage, client: int, payload: Payload) -> None:
        super().absorb(stage, client, payload)
        if stage.name == "round":
            weight = self.weight(payload)
            self.on += weight * self.taken.values
            self.asked += weight * self.taken.had

    def finish(self, stage: Stage) -> None:
        if stage.name != "round":
            return
        found, rounds = self.settings, self.config.run.num_server_rounds
        self.shared, _ = stepped(self.shared, self.mean.result(self.shared), found.server_rate)
        before = self.theta
        if self.moving:
            mean = np.divide(self.on, self.asked, out=before.copy(), where=self.asked > 0)
            theta = stepped({THETA: before}, {THETA: mean}, found.theta_rate)[0][THETA].astype(np.float64)
            gates = Gates(before, self.alive, self.factor)
            gates = turned(self.groups, gates, theta, found.turn(stage.round, rounds))
            self.theta, self.alive, self.factor, self.settled = gates.theta, gates.alive, gates.factor, gates.settled
        if found.learns:
            self.history.add(self.groups, before, self.theta, self.alive)
        self.arrays = final(self.groups, self.shared, self.theta, self.alive, found)

    def close(self) -> None:
        if self.settings.learns:
            self.record.found("gates", self.history.told(self.groups, self.theta))
            left = self.history.density[-1] if self.history.density else 1.0
            if left > self.settings.density * MUCH > 0:
                ways = "more rounds, a larger fedsparse.gate-rate or a larger fedsparse.lambda0 bring"
                ways = ways if self.settings.trains else "more rounds or more clients a round bring"
                self.record.note(f"the density ended at {left:.2f}, planned was {self.settings.density:.2f}; {ways} it there")

    def facts(self) -> dict[str, Any]:
        return {"history": self.history.facts(), "factor": self.factor, "settled": self.settled}

    def restore(self, parts: Mapping[str, Arrays], facts: Mapping[str, Any]) -> None:
        super().restore(parts, facts)
        self.history, self.factor = History(**facts.get("history", {})), float(facts.get("factor", 1.0))
        self.settled = bool(facts.get("settled", False))
