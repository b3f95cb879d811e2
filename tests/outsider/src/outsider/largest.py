"""A codec: the largest numbers of an update with their places, the others are left as they were."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from fedwarm.codecs import Codec
from fedwarm.coding.layout import Layout
from fedwarm.core.arrays import Arrays
from fedwarm.core.payload import Payload, PayloadError
from fedwarm.core.stages import Place
from fedwarm.settings.fields import Group, setting


@dataclass(frozen=True)
class LargestSettings(Group, prefix="largest"):
    """Settings of the codec `largest`."""

    share: float = setting(0.1, "share of an update's numbers that travel", low=1e-6, high=1.0)


class Largest(Codec):
    """The codec `largest`: the share of the numbers that are largest by absolute value."""

    settings = LargestSettings

    def count(self, layout: Layout) -> int:
        """How many numbers travel."""
        return max(1, round(self.config.of(LargestSettings).share * layout.total))

    def expected(self, reference: Arrays) -> Arrays:
        count = self.count(Layout.of(reference))
        return {"places": np.zeros(count, np.int32), "values": np.zeros(count, np.float32)}

    def encode(self, reply: Payload, sent: Payload, reference: Arrays, place: Place, device: torch.device) -> Payload:
        layout = Layout.of(reference)
        update = layout.difference(reply.arrays, reference)
        chosen = np.sort(np.argsort(-np.abs(update), kind="stable")[: self.count(layout)])
        arrays: Arrays = {"places": chosen.astype(np.int32), "values": update[chosen].astype(np.float32)}
        return Payload("weights", arrays, reply.metrics, reply.facts)

    def decode(self, payload: Payload, reference: Arrays, place: Place) -> Payload:
        layout, places = Layout.of(reference), payload.arrays["places"]
        if not (places.min() >= 0 and places.max() < layout.total):
            raise PayloadError("a place lies outside of the update")
        update = np.zeros(layout.total)
        update[places] = payload.arrays["values"]
        return Payload("weights", layout.moved(reference, update), payload.metrics, payload.facts)
