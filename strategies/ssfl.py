"""SSFL's server: one mask out of all clients' saliencies, then rounds of FedAvg on the weights within it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from flwr.app import MessageType

from fedwarm.aggregators import Robust, aggregator
from fedwarm.coding.packing import pack_mask
from fedwarm.core.arrays import Arrays, WeightedMean
from fedwarm.core.payload import Payload
from fedwarm.methods.ssfl import MASK
from fedwarm.methods.ssfl import Ssfl as Settings
from fedwarm.record.folder import RunFolder
from fedwarm.rounds.server import BaseStrategy, Stage
from fedwarm.settings.config import Config
from fedwarm.settings.fields import Value
from fedwarm.settings.kinds import CODECS
from fedwarm.sparse.groups import Masks
from fedwarm.sparse.magnitude import largest
from fedwarm.sparse.packing import PACKED, Reader, from_rounded, from_values, joined, to_values, values_bytes
from fedwarm.sparse.replies import bits_of, refuse_statistics

SALIENCY = "saliency"


class Ssfl(BaseStrategy):
    """s <- sum_k n_k |g_k w| / sum_k n_k once; then w <- sum_k n_k w_k / sum_k n_k within the largest s (arXiv 2405.09037)."""

    method = "ssfl"
    sends_all = True  # its mask is of all that the network has

    def __init__(self, config: Config | None = None, folder: RunFolder | None = None, **settings: Value) -> None:
        super().__init__(config, folder, **settings)
        self.bits = bits_of(self.config)
        self.wire_codec = CODECS.load(CODECS.first)(self.config)  # what is packed is rounded in its packing
        self.masks: Masks = {}
        self.told: set[int] = set()

    def plan(self) -> Iterator[Stage]:
        refuse_statistics(dict(self.new_model().named_buffers()))
        yield Stage(0, SALIENCY, MessageType.TRAIN, self.everyone, action=SALIENCY)
        yield from super().plan()

    def instruct(self, stage: Stage, client: int) -> Payload:
        if stage.name != "round":
            return super().instruct(stage, client)
        first = client not in self.told
        self.told.discard(client)  # asked again, it is sent the mask
        mask = np.concatenate([mask.reshape(-1) for mask in self.masks.values()])
        packed = joined([pack_mask(mask) if first else b"", to_values(self.arrays, self.masks)])
        return Payload("words", {PACKED: packed}, {"round": stage.round, MASK: int(first)})

    def expected(self, stage: Stage) -> Arrays:
        if stage.name == SALIENCY:
            return self.arrays
        return {PACKED: np.zeros(values_bytes(self.masks, self.bits), np.uint8)} if stage.name == "round" else {}

    def numbers(self, expected: Arrays) -> int:
        return sum(array.size for array in self.arrays.values())

    def _check_size(self, stage: Stage, arrays: Arrays, expected: Arrays) -> float:
        if stage.name != "round":
            return 0.0
        reader = Reader(arrays[PACKED])
        self.taken = from_rounded(reader, self.arrays, self.masks, self.bits) if self.bits else from_values(reader, self.masks)
        reader.end()
        return super()._check_size(stage, self.taken, self.arrays)

    def begin(self, stage: Stage) -> None:
        self.mean = WeightedMean() if stage.name == SALIENCY else aggregator(self.config.of(Robust), self.arrays)

    def absorb(self, stage: Stage, client: int, payload: Payload) -> None:
        if stage.name == SALIENCY:
            self.mean.add(payload.arrays, payload.count("num-examples", 1))
        if stage.name == "round":
            self.mean.add(self.taken, payload.count("num-examples", 1))
            self.told.add(client)

    def finish(self, stage: Stage) -> None:
        if stage.name == SALIENCY:
            self.masks = self._ordered(largest(self.mean.result(), self.config.of(Settings).density))
            self.arrays = {name: np.where(mask, self.arrays[name], 0).astype(np.float32) for name, mask in self.masks.items()}
        if stage.name == "round":
            self.arrays = self.mean.result()

    def _ordered(self, masks: Masks) -> Masks:
        """In the model's own order, in which their numbers travel."""
        return {name: masks[name] for name in self.new_model().state_dict() if name in masks}

    def state(self) -> dict[str, Arrays]:
        return {**super().state(), **({MASK: {**self.masks}} if self.masks else {})}

    def facts(self) -> dict[str, Any]:
        return {"told": sorted(self.told)}

    def restore(self, parts: Mapping[str, Arrays], facts: Mapping[str, Any]) -> None:
        super().restore(parts, facts)
        self.masks = self._ordered({name: mask.astype(np.bool_) for name, mask in parts.get(MASK, {}).items()})
        self.told = set(facts["told"])
