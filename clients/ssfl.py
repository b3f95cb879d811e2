"""SSFL's client: it says which weights its loss hangs on, and then trains and sends those that all clients together chose."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from fedwarm.core.arrays import from_module, from_tensors
from fedwarm.core.payload import Payload, PayloadError
from fedwarm.core.seeds import numpy_generator
from fedwarm.data.rows import evenly
from fedwarm.methods.ssfl import MASK, Ssfl, saliency
from fedwarm.rounds.client import BaseClient
from fedwarm.sparse.groups import Mask, Masks
from fedwarm.sparse.packing import PACKED, Reader, from_values, joined, to_rounded, to_values
from fedwarm.sparse.prior import Masked
from fedwarm.sparse.replies import bits_of
from fedwarm.tasks import task_of
from fedwarm.training.loop import Hook


class SsflClient(BaseClient):
    """Keeps the mask that it was sent with its first round."""

    masks: Masks

    def coded(self, action: str, payload: Payload, do: Callable[[Payload], Payload]) -> Payload:
        return do(payload)  # it rounds what it packs itself

    def saliency(self, payload: Payload) -> Payload:
        """|g w| of some of its images."""
        shard = self.shard
        rows = torch.from_numpy(evenly(len(shard.train_labels), self.config.of(Ssfl).images))
        model, task, draws = self.model(payload), task_of(self.config.run), self.draws("saliency")
        images, labels = (part[rows].to(self.device) for part in (shard.train_images, shard.train_labels))
        found = saliency(model, images, labels, task, draws)
        return Payload("weights", from_tensors(found), {"num-examples": self.weight})

    def round(self, payload: Payload) -> Payload:
        number, shapes = payload.count("round", 1), {n: a.shape for n, a in from_module(self.model()).items()}
        reader = Reader(payload.arrays[PACKED])
        flat = self.mask(reader, sum(int(np.prod(shape)) for shape in shapes.values()), payload.count(MASK), number)
        ends = np.cumsum([int(np.prod(shape)) for shape in shapes.values()])[:-1]
        self.masks = {n: part.reshape(s) for (n, s), part in zip(shapes.items(), np.split(flat, ends), strict=True)}
        before = from_values(reader, self.masks)
        reader.end()
        model, bits = self.model(Payload("weights", before)), bits_of(self.config)
        loss, run = self.fit(model, "train", number), self.config.run
        after = from_module(model)
        if bits:
            draws = numpy_generator(run.seed, run.method, "rounding", number, self.node.partition)
            values = to_rounded(after, before, self.masks, bits, draws)
        else:
            values = to_values(after, self.masks)
        return Payload("words", {PACKED: joined([values])}, {"num-examples": self.weight, "train-loss": loss})

    def mask(self, reader: Reader, count: int, told: int, number: int) -> Mask:
        """Which of all numbers (d,) are trained: as it is told now, or was told.

        Raises:
            PayloadError: it was never told.
        """
        if told:
            mask = reader.mask(count)
            self.node.store.save(MASK, {MASK: torch.from_numpy(mask)}, number)
            return mask
        kept = self.node.store.load(MASK)
        if kept is None:
            raise PayloadError("this client does not hold the mask that it was sent in an earlier round")
        return kept[MASK].numpy()

    def hooks(self) -> list[Hook]:
        return [Masked(self.masks)]
