"""The codec `stochastic-rounding`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from fedwarm.codecs import WORDS, Codec
from fedwarm.coding import stochastic
from fedwarm.coding.layout import Layout
from fedwarm.core.arrays import Arrays
from fedwarm.core.payload import Payload
from fedwarm.core.seeds import numpy_generator
from fedwarm.core.stages import Place
from fedwarm.settings.config import Config
from fedwarm.settings.fields import Group, setting


@dataclass(frozen=True)
class StochasticRounding(Group, prefix="stochastic-rounding", used=lambda r: r.uploads):
    """Settings of the codec `stochastic-rounding`."""

    bits: int = setting(4, "bits of each number of an update", low=2, high=16)


class Rounded(Codec):
    """The codec `stochastic-rounding`: b bits a number, unbiased.

    Each array of the update is scaled by its largest number and rounded up or down at random, so that the mean is the number
    (the uniform case of Louizos et al., "Relaxed Quantization", arXiv 1810.01875, section 2).
    """

    settings = StochasticRounding

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.bits = config.of(StochasticRounding).bits

    def expected(self, reference: Arrays) -> Arrays:
        size = sum(stochastic.packed_bytes(n, self.bits) for n in Layout.of(reference).sizes)
        rest = {name: array for name, array in reference.items() if name not in dict(Layout.of(reference).entries)}
        return {WORDS: np.zeros(size, np.uint8), **rest}

    def encode(self, reply: Payload, sent: Payload, reference: Arrays, place: Place, device: torch.device) -> Payload:
        layout = Layout.of(reference)
        draws = numpy_generator(place.seed, "stochastic-rounding", place.stage, place.round, place.client)
        words = stochastic.encode_all(layout.split(layout.difference(reply.arrays, reference)), self.bits, draws)
        rest = {name: array for name, array in reply.arrays.items() if name not in dict(layout.entries)}
        return Payload("words", {WORDS: words, **rest}, reply.metrics, reply.facts)

    def decode(self, payload: Payload, reference: Arrays, place: Place) -> Payload:
        layout = Layout.of(reference)
        rest = {name: array for name, array in payload.arrays.items() if name != WORDS}
        parts = stochastic.decode_all(payload.arrays[WORDS].view(np.uint8), layout.sizes, self.bits)
        moved = layout.moved(reference, np.concatenate([np.empty(0), *parts]))
        return Payload("weights", {**moved, **rest}, payload.metrics, payload.facts)


COMPONENT = Rounded
