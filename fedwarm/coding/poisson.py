"""The exact code of an update: its decoded vector is the clipped update plus normal noise, in a few bits of constant length.

Each block is coded by the Poisson functional representation (see `functional`), and the indices by Elias's gamma code, padded to
a length that a message passes with a small probability only, in which case it is sent as nobody's. Padding is not optional: a
zero update's indices are all 1, so that lengths would tell of the update's. Those who know the candidates learn from an index
what no noise covers, so this is for views in which they are secret.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from fedwarm.coding import functional, gamma, rec
from fedwarm.coding.codec import BlockCodec
from fedwarm.coding.packing import CodeError
from fedwarm.coding.streams import Stream
from fedwarm.privacy.randomness import SYSTEM, Source


@dataclass(frozen=True)
class PoissonCodec(BlockCodec):
    """One of any number of candidates a block; what is decoded has the law N(v, sigma^2 I).

    Attributes:
        tolerance: the most that the law of one message may differ from that, in total variation. Half of it is for messages
            that are too long, a quarter each for candidates that come after the last one that is tried, by the rule that stops
            the search and by its end.
        most: candidates of a block that are tried at most.

    Raises:
        CodeError: settings out of their range, or blocks that take more candidates than can be tried.
    """

    tolerance: float = 1e-12
    most: int = field(init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.tolerance < 1:
            raise CodeError(f"tolerance = {self.tolerance}; it must lie between 0 and 1")
        object.__setattr__(self, "most", functional.most_candidates(self.norm, self.stop))

    @property
    def norm(self) -> float:
        """The most that ||v_j|| / sigma can be in a block."""
        return float(np.sqrt(self.caps.max()))

    @property
    def stop(self) -> float:
        """What a block's search may miss by its rule, and again by its end."""
        return self.tolerance / 4 / len(self.blocks)

    @cached_property
    def words_bits(self) -> int:
        """Bits of one update's code words, padding included."""
        return functional.message_bits(self.norm, len(self.blocks), self.tolerance / 2, self.most)

    @property
    def words_bytes(self) -> int:
        return -(-self.words_bits // 8)

    def encode(
        self, update: NDArray[np.floating], stream: Stream, source: Source = SYSTEM, device: torch.device = rec.CPU
    ) -> bytes:
        """An index a block; nobody's message where they are too long. Candidates are weighed on the processor."""
        v, words = self.prepare(update, stream), stream.words()
        spans = enumerate(pairwise(self.blocks.starts.tolist()))
        chosen = [
            functional.choose(stream.key(j), v[start:end], words, source, self.stop, self.most) for j, (start, end) in spans
        ]
        return gamma.pack(chosen, self.words_bytes) or self.absent(source)

    def absent(self, source: Source = SYSTEM) -> bytes:
        """The first candidate of every block."""
        return gamma.pack([1] * len(self.blocks), self.words_bytes) or b""

    def candidate(self, words: bytes, stream: Stream) -> NDArray[np.float32]:
        if len(words) != self.words_bytes:
            raise CodeError(f"{len(words)} bytes of code words; every message has {self.words_bytes}")
        return rec.decode(gamma.unpack(words, len(self.blocks), self.most) - 1, self.blocks.starts, stream)
