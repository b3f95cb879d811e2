"""FedSparse's client: it trains the groups that it is sent with a gate each, and sends the groups that its gates leave.

Everything travels as one packed array each way (see `fedwarm.sparse.packing`). It keeps nothing between rounds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from fedwarm.coding.packing import pack_mask
from fedwarm.core.arrays import Arrays, from_module
from fedwarm.core.payload import Payload, PayloadError
from fedwarm.core.seeds import numpy_generator
from fedwarm.methods.fedsparse import FedSparse
from fedwarm.models import Model
from fedwarm.rounds.client import BaseClient
from fedwarm.sparse.groups import Floats, Groups, Mask, Masks, groups_of
from fedwarm.sparse.packing import PACKED, THETA, Bytes, Reader, from_values, joined, to_numbers, to_rounded, to_values
from fedwarm.sparse.prior import Masked, SparsePrior
from fedwarm.sparse.replies import bits_of
from fedwarm.tasks import task_of
from fedwarm.training.loop import Hook


@dataclass(frozen=True)
class Received:
    """What the server sent: groups, their probabilities, their weights; which of the model's numbers are left, and are here."""

    groups: Groups
    mask: Mask
    theta: Floats
    arrays: Arrays
    live: Masks
    chosen: Masks
    price: float | None


class GroupedClient(BaseClient):
    """Answers a packed model by one."""

    @property
    def single(self) -> bool:
        """Whether every weight is a group."""
        return False

    def chosen(self, groups: Groups, live: Masks, gates: Mask) -> Masks:
        """Which numbers travel with these groups."""
        return groups.chosen(live, gates)

    def kept(self, got: Received, number: int) -> tuple[Mask, bytes]:
        """Which of the groups that it was sent it sends back, and what it says of each of these."""
        return np.ones(int(got.mask.sum()), np.bool_), b""

    def begin(self, got: Received, number: int) -> None:
        """Before training."""

    def coded(self, action: str, payload: Payload, do: Callable[[Payload], Payload]) -> Payload:
        return do(payload)  # it rounds what it packs itself

    def round(self, payload: Payload) -> Payload:
        number, got = payload.count("round", 1), self.received(payload)
        self.begin(got, number)
        model = self.model(Payload("weights", got.arrays))
        loss = self.fit(model, "train", number)
        packed = self.packed(got, from_module(model), number)
        return Payload("words", {PACKED: packed}, {"num-examples": self.weight, "train-loss": loss, **self.spent})

    def received(self, payload: Payload) -> Received:
        """The model out of its packing."""
        width = task_of(self.config.run).width(len(self.real.classes))
        groups = groups_of(self.config.of(Model), width, self.real.form, self.single)
        reader = Reader(payload.arrays[PACKED])
        price = payload.number("price") if "price" in payload.metrics else None
        same = 1.0 if price is None else payload.number(THETA) if THETA in payload.metrics else None
        mask = reader.mask(groups.count)
        alive = ~reader.mask(groups.count) if payload.count("pruned") else np.ones(groups.count, np.bool_)
        theta = reader.numbers(int(mask.sum())) if same is None else np.full(int(mask.sum()), same)
        if not ((theta >= 0) & (theta <= 1)).all():
            raise PayloadError("the probability of a group is not between 0 and 1")
        live = groups.live(alive)
        chosen = self.chosen(groups, live, mask)
        arrays = from_values(reader, chosen)
        reader.end()
        return Received(groups, mask, theta, arrays, live, chosen, price)

    def packed(self, got: Received, arrays: Arrays, number: int) -> Bytes:
        """The groups that this client keeps, as bytes."""
        kept, numbers = self.kept(got, number)
        gates, bits = got.mask.copy(), bits_of(self.config)
        gates[got.mask] = kept
        chosen = self.chosen(got.groups, got.live, gates)
        if bits:
            draws = numpy_generator(self.config.run.seed, self.config.run.method, "rounding", number, self.node.partition)
            return joined([pack_mask(kept), numbers, to_rounded(arrays, got.arrays, chosen, bits, draws)])
        return joined([pack_mask(kept), numbers, to_values(arrays, chosen)])


class FedSparseClient(GroupedClient):
    """Trains a gate with each group, and sends the groups that its gates leave."""

    prior: SparsePrior
    masks: Masks
    told: FedSparse

    @property
    def single(self) -> bool:
        return self.config.of(FedSparse).single

    def begin(self, got: Received, number: int) -> None:
        sizes, examples = got.groups.sizes_of(got.live).astype(np.float64), len(self.shard.train_labels)
        settings = self.config.of(FedSparse)
        self.told = settings if got.price is not None else replace(settings, gates="on")  # they have ended
        told = (got.mask, got.theta, sizes, examples, got.price or 0.0, self.draws("gates", number))
        self.prior = SparsePrior(self.told, got.groups, *told)
        # Gates shut out what is not here; after they have ended its inputs may still be there, and so a gradient.
        self.masks = {} if self.told.learns or all(mask.all() for mask in got.chosen.values()) else got.chosen

    def hooks(self) -> list[Hook]:
        return [self.prior, *([Masked(self.masks)] if self.masks else [])]

    def kept(self, got: Received, number: int) -> tuple[Mask, bytes]:
        if not self.told.learns:
            return super().kept(got, number)
        pi, open_ = self.prior.probabilities()
        if self.told.up == "logits":
            return open_, to_numbers(pi[open_])
        draws = numpy_generator(self.config.run.seed, self.config.run.method, "up", number, self.node.partition)
        return draws.random(len(pi)) < pi, b""
