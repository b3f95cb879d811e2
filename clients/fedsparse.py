"""FedSparse's client: it trains the groups that it is sent with a gate each, and sends the groups that its gates leave.

Everything travels as one packed array each way (see `fedwarm.sparse.packing`). It keeps nothing between rounds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fedwarm.core.arrays import Arrays, from_module
from fedwarm.core.payload import Payload
from fedwarm.core.seeds import numpy_generator
from fedwarm.methods.fedsparse import PACKED, FedSparse, SparsePrior, bits_of
from fedwarm.models import Model
from fedwarm.rounds.client import BaseClient
from fedwarm.sparse.groups import Floats, Groups, Mask, Masks, groups_of
from fedwarm.sparse.packing import Bytes, Reader, from_values, joined, to_mask, to_numbers, to_rounded, to_values
from fedwarm.tasks import task_of
from fedwarm.training.loop import Hook


@dataclass(frozen=True)
class Received:
    """What the server sent: groups, their probabilities, their weights, and which of the model's numbers are left."""

    groups: Groups
    mask: Mask
    theta: Floats
    arrays: Arrays
    live: Masks


class FedSparseClient(BaseClient):
    """Answers a packed model by one."""

    prior: SparsePrior

    def coded(self, action: str, payload: Payload, do: Callable[[Payload], Payload]) -> Payload:
        return do(payload)  # it rounds what it packs itself

    def round(self, payload: Payload) -> Payload:
        number, settings = payload.count("round", 1), self.config.of(FedSparse)
        got = self.received(payload)
        sizes, examples = got.groups.sizes_of(got.live).astype(np.float64), len(self.shard.train_labels)
        told = (got.mask, got.theta, sizes, examples, self.draws("gates", number))
        self.prior = SparsePrior(settings, got.groups, *told)
        model = self.model(Payload("weights", got.arrays))
        loss = self.fit(model, "train", number)
        packed = self.packed(got, from_module(model), number)
        return Payload("words", {PACKED: packed}, {"num-examples": self.weight, "train-loss": loss, **self.spent})

    def hooks(self) -> list[Hook]:
        return [self.prior]

    def received(self, payload: Payload) -> Received:
        """The model out of its packing."""
        size, width = int(self.real.train_images.shape[-1]), task_of(self.config.run).width(len(self.real.classes))
        groups, reader = groups_of(self.config.of(Model), width, size), Reader(payload.arrays[PACKED])
        mask = reader.mask(groups.count)
        alive = ~reader.mask(groups.count) if payload.count("pruned") else np.ones(groups.count, np.bool_)
        theta, live = reader.numbers(int(mask.sum())), groups.live(alive)
        arrays = from_values(reader, groups.chosen(live, mask))
        reader.end()
        return Received(groups, mask, theta, arrays, live)

    def packed(self, got: Received, arrays: Arrays, number: int) -> Bytes:
        """The groups that this client keeps, as bytes."""
        settings, bits = self.config.of(FedSparse), bits_of(self.config)
        pi, open_ = self.prior.probabilities()
        seed, who = self.config.run.seed, self.node.partition
        if settings.gates == "on":
            kept, numbers = np.ones(len(pi), np.bool_), b""
        elif settings.up == "logits":
            kept, numbers = open_, to_numbers(pi[open_])
        else:
            kept, numbers = numpy_generator(seed, "fedsparse", "up", number, who).random(len(pi)) < pi, b""
        gates = got.mask.copy()
        gates[got.mask] = kept
        chosen = got.groups.chosen(got.live, gates)
        if bits:
            draws = numpy_generator(seed, "fedsparse", "rounding", number, who)
            return joined([to_mask(kept), numbers, to_rounded(arrays, got.arrays, chosen, bits, draws)])
        return joined([to_mask(kept), numbers, to_values(arrays, chosen)])
