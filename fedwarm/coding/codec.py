"""The random code of an update: clip, rotate, clip the blocks, choose at the client; redraw, sum, debias, restore at the server.

Triastcyn, Reisser, Louizos, "DP-REC: Private & Communication-Efficient Federated Learning", arXiv 2111.05454 (2021). The paper's
public text gives no formulas; the construction here is ours: prior N(0, sigma^2 I), posterior N(v, sigma^2 I) at the clipped
update v, K = 2^b shared candidates a block, a softmax draw among them, division by the known shrinkage.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from fedwarm.coding import rec
from fedwarm.coding.blocks import Blocks
from fedwarm.coding.packing import CodeError, pack, packed_bytes, unpack
from fedwarm.coding.rotation import padded, restore, rotate
from fedwarm.coding.shrinkage import shrinkage
from fedwarm.coding.streams import Stream
from fedwarm.privacy.clipping import clip
from fedwarm.privacy.randomness import SYSTEM, Source, integers

MAGNITUDES = ("clip", "scale")
SMALLEST = 1e-200
NODES = 17
Vector = NDArray[np.float64]


@dataclass(frozen=True)
class BlockCodec(ABC):
    """What both sides must know to speak; equal on both sides, or what is decoded is noise.

    Attributes:
        size: d, numbers of an update.
        sigma: scale of the candidates, and so of the noise.
        clip: C, the most norm of an update.
        blocks: the cut of the rotated update; its total is `rotation.padded(size, rotation)`.
        rotation: `none`, `hadamard` or `qr`.
        magnitude: `clip`: a block keeps its norm up to its cap; `scale`: every block but a zero one gets the norm of its share.
    """

    size: int
    sigma: float
    clip: float
    blocks: Blocks
    rotation: str = "hadamard"
    magnitude: str = "clip"

    def __post_init__(self) -> None:
        for name, value in (("sigma", self.sigma), ("clip", self.clip)):
            if not (value > 0 and np.isfinite(value)):
                raise CodeError(f"{name} = {value}; it must be positive and finite")
        if self.blocks.total != padded(self.size, self.rotation):
            raise CodeError(f"blocks of {self.blocks.total} numbers; rotated by {self.rotation}, {self.size} become "
                            f"{padded(self.size, self.rotation)}")  # fmt: skip
        if self.magnitude not in MAGNITUDES:
            raise CodeError(f"magnitude {self.magnitude!r} is unknown; choose one of {', '.join(MAGNITUDES)}")

    @property
    def energy(self) -> float:
        """X = C^2 / sigma^2: the update's most squared norm in units of sigma^2; its KL from the prior is X / 2 nats at most."""
        return (self.clip / self.sigma) ** 2

    @cached_property
    def caps(self) -> Vector:
        """Most squared norm (B,) of each coded block, in units of sigma^2."""
        if self.magnitude == "scale":
            return self.energy * np.asarray(self.blocks.shares)
        return self.blocks.caps(self.energy)

    @property
    @abstractmethod
    def words_bytes(self) -> int:
        """Bytes of one update's message, whatever the update."""

    @property
    def gain(self) -> Vector:
        """What a decoded number is multiplied by: one for all (1,), or one a number (padded,)."""
        return np.full(1, self.sigma)

    # The client's half

    def prepare(self, update: NDArray[np.floating], stream: Stream) -> Vector:
        """The clipped, rotated, block-clipped update (padded,), in units of sigma: what is coded.

        Raises:
            CodeError: another length.
            UpdateError: NaN or infinity, or a norm that overflows float64.
        """
        if update.shape != (self.size,):
            raise CodeError(f"an update of shape {list(update.shape)}; the codec was made for [{self.size}]")
        v = rotate(clip(update.astype(np.float64), self.clip), self.rotation, stream.rotation()) / self.sigma
        squares = self.blocks.squares(v)
        with np.errstate(divide="ignore", invalid="ignore"):
            factors = np.sqrt(self.caps / squares)
        limit = np.inf if self.magnitude == "scale" else 1.0
        return v * self.blocks.spread(np.where(squares > SMALLEST, np.minimum(factors, limit), 0.0))

    @abstractmethod
    def encode(
        self, update: NDArray[np.floating], stream: Stream, source: Source = SYSTEM, device: torch.device = rec.CPU
    ) -> bytes:
        """An update (d,) as code words, `words_bytes`.

        Args:
            update: what training changed, in the layout that both sides share.
            stream: whose candidates.
            source: private bytes for the choice.
            device: where the candidates are weighed.

        Raises:
            CodeError, UpdateError: the update cannot be coded; nothing was drawn.
        """

    @abstractmethod
    def absent(self, source: Source = SYSTEM) -> bytes:
        """Code words of nobody: those of a zero update."""

    # The server's half

    @abstractmethod
    def candidate(self, words: bytes, stream: Stream) -> NDArray[np.float32]:
        """The chosen candidates (padded,), in units of sigma; their sums in float64 are exact, in any order.

        Raises:
            CodeError: the bytes are not what `encode` writes.
        """

    def mean(self, total: Vector, count: int, stream: Stream) -> Vector:
        """The mean update (d,) from a sum of `count` candidates: scaled, debiased, rotated back.

        Args:
            total: sum of candidates (padded,), float64.
            count: the planned number of updates, whoever replied.
            stream: any stream of the round (its rotation is the round's).
        """
        return restore(total * (self.gain / count), self.rotation, stream.rotation(), self.size)

    def decode(self, words: bytes, stream: Stream) -> Vector:
        """One update (d,), debiased: v + noise.

        Raises:
            CodeError: the bytes are not what `encode` writes.
        """
        return self.mean(self.candidate(words, stream).astype(np.float64), 1, stream)


@dataclass(frozen=True)
class RandomCodec(BlockCodec):
    """Minimal random coding: one of K = 2^b candidates a block, by b bits; the noise is sigma / s at most.

    Attributes:
        bits: b, bits a block.
        debias: divide by the shrinkage.
        nonce_bytes: of the nonce that each message begins with, 0 where streams are secret.
    """

    bits: int = 7
    debias: bool = True
    nonce_bytes: int = 0

    def __post_init__(self) -> None:
        packed_bytes(len(self.blocks), self.bits)
        super().__post_init__()

    @property
    def words_bytes(self) -> int:
        """Bytes of one update's message: ceil(B b / 8) of code words, behind the nonce."""
        return self.nonce_bytes + packed_bytes(len(self.blocks), self.bits)

    @property
    def words_bits(self) -> int:
        """Bits of one update's code words: B b."""
        return len(self.blocks) * self.bits

    @cached_property
    def gain(self) -> Vector:
        """sigma / s(K, c_j) with c_j^2 = X share_j."""
        if not self.debias:
            return super().gain
        norms = np.sqrt(self.energy * np.asarray(self.blocks.shares))
        nodes = np.unique(norms)
        if nodes.size > NODES:
            nodes = np.linspace(nodes[0], nodes[-1], NODES)
        # rounded, so that the last bit of a machine's exponential does not enter what every machine must agree on
        factors = np.array([round(shrinkage(self.bits, float(c)), 9) for c in nodes])
        return self.blocks.spread(self.sigma / np.interp(norms, nodes, factors)) if nodes.size > 1 else self.sigma / factors

    def encode(
        self, update: NDArray[np.floating], stream: Stream, source: Source = SYSTEM, device: torch.device = rec.CPU
    ) -> bytes:
        """Behind the nonce, which is private bytes too, an index a block; a zero update draws its indices uniformly."""
        v, nonce = self.prepare(update, stream), self._nonce(source)
        own = replace(stream, nonce=nonce)
        return nonce + pack(rec.encode(v, self.blocks.starts, self.bits, own, source, device), self.bits)

    def absent(self, source: Source = SYSTEM) -> bytes:
        """Uniform indices."""
        return self._nonce(source) + pack(integers(len(self.blocks), self.bits, source), self.bits)

    def _nonce(self, source: Source) -> bytes:
        return source(self.nonce_bytes) if self.nonce_bytes else b""

    def candidate(self, words: bytes, stream: Stream) -> NDArray[np.float32]:
        nonce, indices = words[: self.nonce_bytes], words[self.nonce_bytes :]
        return rec.decode(unpack(indices, len(self.blocks), self.bits), self.blocks.starts, replace(stream, nonce=nonce))
