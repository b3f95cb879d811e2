"""The codec `top-k`: of an update the numbers that are largest travel, the others are kept for the next time.

Aji and Heafield, "Sparse Communication for Distributed Gradient Descent", EMNLP 2017, arXiv 1704.05021; with local steps:
Sattler, Wiedemann, Müller, Samek, "Robust and Communication-Efficient Federated Learning from Non-IID Data", arXiv 1903.02891.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from fedwarm.codecs import WORDS, Codec
from fedwarm.coding.layout import Layout
from fedwarm.coding.packing import CodeError, mask_bytes, pack_mask, unpack_mask
from fedwarm.core.arrays import Arrays
from fedwarm.core.payload import Payload, PayloadError
from fedwarm.core.stages import Place
from fedwarm.data.node import Node
from fedwarm.settings.config import Config
from fedwarm.settings.fields import Group, setting

RESIDUAL = "top-k-residual"


@dataclass(frozen=True)
class TopK(Group, prefix="top-k", used=lambda r: r.uploads):
    """Settings of the codec `top-k`."""

    share: float = setting(0.1, "fraction of an update's numbers that is sent, the largest ones", low=1e-6, high=1.0)
    residual: bool = setting(True, "error feedback: a client adds what it did not send to its next update")


class Largest(Codec):
    """The codec `top-k`: k = share d of d numbers as float32, and a mask of d bits of where, or 4 bytes each if that is less.

    What is left of an update is kept by the arrays' names, flat.
    """

    settings = TopK

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.chosen = config.of(TopK)
        self.feedback = self.chosen.residual
        self.before: Mapping[str, NDArray[np.float64]] = {}
        self.left: Mapping[str, NDArray[np.float64]] = {}

    def count(self, total: int) -> int:
        """k of d numbers, at least one."""
        return min(total, max(1, round(self.chosen.share * total)))

    def size_bytes(self, total: int) -> int:
        """4 k bytes of numbers and min(ceil(d / 8), 4 k) of places."""
        return 4 * self.count(total) + min(-(-total // 8), 4 * self.count(total))

    def expected(self, reference: Arrays) -> Arrays:
        layout = Layout.of(reference)
        rest = {name: array for name, array in reference.items() if name not in dict(layout.entries)}
        return {WORDS: np.zeros(self.size_bytes(layout.total), np.uint8), **rest}

    def guarded(
        self, node: Node, place: Place, sent: Payload, reference: Arrays, encode: Callable[[], Payload], share: float = 1.0
    ) -> Payload:
        if not self.chosen.residual:
            return encode()
        name = f"{RESIDUAL}-{place.stage}"
        self.before = {array: left.double().numpy() for array, left in (node.store.load(name, before=place.round) or {}).items()}
        reply = encode()
        left = {**self.before, **self.left}  # what another round's arrays left stays theirs, as of an expert that was not sent
        node.store.save(name, {array: torch.from_numpy(values).float() for array, values in left.items()}, place.round)
        return reply

    def encode(self, reply: Payload, sent: Payload, reference: Arrays, place: Place, device: torch.device) -> Payload:
        layout = Layout.of(reference)
        update = layout.difference(reply.arrays, reference)
        for (name, _), part in zip(layout.entries, layout.split(update), strict=True):
            kept = self.before.get(name)
            if kept is not None and kept.shape == part.shape:
                part += kept  # a view of the update
        if not np.isfinite(update).all():
            raise CodeError("the update holds NaN or infinity; lower learning-rate")
        picked = np.sort(np.argsort(-np.abs(update), kind="stable")[: self.count(layout.total)])
        numbers = update[picked].astype("<f4")
        left = update.copy()
        left[picked] -= numbers.astype(np.float64)
        self.left = dict(zip((name for name, _ in layout.entries), layout.split(left), strict=True))
        mask = np.zeros(layout.total, np.bool_)
        mask[picked] = True
        where = pack_mask(mask)
        if len(where) > 4 * len(picked):
            where = picked.astype("<u4").tobytes()
        rest = {name: array for name, array in reply.arrays.items() if name not in dict(layout.entries)}
        words = np.frombuffer(where + numbers.tobytes(), np.uint8)
        return Payload("words", {WORDS: words, **rest}, reply.metrics, reply.facts)

    def decode(self, payload: Payload, reference: Arrays, place: Place) -> Payload:
        layout = Layout.of(reference)
        rest = {name: array for name, array in payload.arrays.items() if name != WORDS}
        step, data = np.zeros(layout.total), payload.arrays[WORDS].tobytes()
        numbers = np.frombuffer(data[-4 * self.count(layout.total) :], "<f4")
        if not np.isfinite(numbers).all():
            raise PayloadError("the update holds NaN or infinity")
        step[self._places(data, layout.total)] = numbers
        return Payload("weights", {**layout.moved(reference, step), **rest}, payload.metrics, payload.facts)

    def _places(self, data: bytes, total: int) -> NDArray[np.int64]:
        """Where the numbers stand (k,), ascending.

        Raises:
            CodeError: not k different places below d.
        """
        k = self.count(total)
        where = data[: len(data) - 4 * k]
        if len(where) == 4 * k and mask_bytes(total) > 4 * k:
            places = np.frombuffer(where, "<u4").astype(np.int64)
        else:
            places = np.flatnonzero(unpack_mask(where, total))
        if len(places) != k or (np.diff(places) <= 0).any() or (k and int(places[-1]) >= total):
            raise CodeError(f"the places of an update's largest numbers are not {k} different ones below {total}")
        return places


COMPONENT = Largest
