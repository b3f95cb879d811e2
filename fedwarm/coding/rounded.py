"""The plain code of an update, for a server that adds the noise itself: rotated, and rounded at random to b bits a number.

What is decoded is clipped once more, as rounding may lengthen a vector: so no update moves the sum by more than C. A message
hides nothing by itself. Rounding: see `stochastic`; Hadamard's rotation before it keeps the largest number small (Suresh, Yu,
Kumar, McMahan, "Distributed Mean Estimation with Limited Communication", ICML 2017, section 3).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import numpy as np
import torch
from numpy.typing import NDArray

from fedwarm.coding import rec, stochastic
from fedwarm.coding.codec import BlockCodec
from fedwarm.coding.streams import Stream
from fedwarm.privacy.clipping import clip
from fedwarm.privacy.randomness import SYSTEM, Source


@dataclass(frozen=True)
class RoundedCodec(BlockCodec):
    """b bits a number and one scale.

    Attributes:
        bits: b, 2 to 16.
    """

    bits: int = 4

    def __post_init__(self) -> None:
        stochastic.packed_bytes(0, self.bits)
        super().__post_init__()

    @property
    def words_bytes(self) -> int:
        return stochastic.packed_bytes(self.blocks.total, self.bits)

    def encode(
        self, update: NDArray[np.floating], stream: Stream, source: Source = SYSTEM, device: torch.device = rec.CPU
    ) -> bytes:
        draws = np.random.default_rng(int.from_bytes(source(16), "little"))
        return stochastic.encode(self.prepare(update, stream), self.bits, draws)

    def absent(self, source: Source = SYSTEM) -> bytes:
        return bytes(self.words_bytes)

    def candidate(self, words: bytes, stream: Stream) -> NDArray[np.float32]:
        v = clip(stochastic.decode(words, self.blocks.total, self.bits), sqrt(self.energy))
        return v.astype(np.float32)
