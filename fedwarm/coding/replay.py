"""Replay: a client that knows an earlier model makes the next ones out of the cohorts' code words, to the same bits.

What the server does to a round's code words and what a client does to them later is one function, `Sum`: candidates are multiples
of 2^-20, so float64 adds them up exactly, in any order and on any machine; the rest is one fixed row of float64 operations.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedwarm.coding.codec import BlockCodec
from fedwarm.coding.packing import CodeError
from fedwarm.coding.streams import Stream
from fedwarm.privacy.randomness import Source, normals

HEADER = struct.Struct("<QIII")
CLIENT = struct.Struct("<Q")


class Sum:
    """The sum of one round's decoded updates."""

    def __init__(self, codec: BlockCodec, run: int, number: int, secret: bytes = b"") -> None:
        self._codec, self._run, self._round, self._secret = codec, run, number, secret
        self._total = np.zeros(codec.blocks.total)
        self.added = 0

    def add(self, client: int, words: bytes) -> None:
        """Add one client's code words.

        Raises:
            CodeError: the bytes are not what the codec writes; the sum is as before.
        """
        self._total += self._codec.candidate(words, Stream.under(self._secret, self._run, self._round, client))
        self.added += 1

    def add_noise(self, times: int, source: Source) -> None:
        """Add the noise of so many updates, N(0, times sigma^2 I)."""
        self._total += np.sqrt(times) * normals(self._total.size, source)

    def mean(self, count: int) -> NDArray[np.float64]:
        """The mean update (d,) over the planned `count`, whoever was added."""
        return self._codec.mean(self._total, count, Stream.under(self._secret, self._run, self._round, 0))


class PlainSum:
    """The sum of updates that are sent in the clear, or with noise: d numbers each."""

    def __init__(self, size: int) -> None:
        self._total, self.added = np.zeros(size), 0

    def add(self, update: NDArray[np.generic], times: int = 1) -> None:
        """Add an update (d,), or the sum of some."""
        self._total += update.astype(np.float64)
        self.added += times

    def mean(self, planned: int) -> NDArray[np.float64]:
        """The mean over the planned number, whoever was added."""
        return self._total / planned


@dataclass(frozen=True)
class Round:
    """One round's code words: `words` by client, `count` the planned number of updates."""

    number: int
    count: int
    words: Mapping[int, bytes]

    def mean(self, codec: BlockCodec, run: int) -> NDArray[np.float64]:
        """The mean update (d,), bit for bit the server's; public seeds, as replay has no secret."""
        total = Sum(codec, run, self.number)
        for client in sorted(self.words):
            total.add(client, self.words[client])
        return total.mean(self.count)


def replay_bytes(cohorts: Iterable[int], words_bytes: int) -> int:
    """Bytes of `pack_rounds` for rounds with so many code words each: 20 a round, and 8 + ceil(B b / 8) a client."""
    return sum(HEADER.size + n * (CLIENT.size + words_bytes) for n in cohorts)


def pack_rounds(rounds: Sequence[Round]) -> bytes:
    """Rounds as bytes: number, count, clients and bytes of a code word; then each client's number and code words, ascending.

    Raises:
        CodeError: code words of one round differ in length.
    """
    parts = []
    for each in rounds:
        lengths = {len(w) for w in each.words.values()} or {0}
        if len(lengths) > 1:
            raise CodeError(f"round {each.number} has code words of {sorted(lengths)} bytes; they must be equally long")
        parts.append(HEADER.pack(each.number, each.count, len(each.words), *lengths))
        parts += [CLIENT.pack(client) + each.words[client] for client in sorted(each.words)]
    return b"".join(parts)


def unpack_rounds(data: bytes) -> list[Round]:
    """The rounds that `pack_rounds` wrote.

    Raises:
        CodeError: the bytes end in the middle of something.
    """
    rounds, at = [], 0
    while at < len(data):
        if at + HEADER.size > len(data):
            raise CodeError(f"a replay of {len(data)} bytes ends inside a round's header")
        number, count, clients, length = HEADER.unpack_from(data, at)
        at += HEADER.size
        step = CLIENT.size + length
        if at + clients * step > len(data):
            raise CodeError(f"a replay of {len(data)} bytes ends inside round {number}")
        rows = [data[at + i * step : at + (i + 1) * step] for i in range(clients)]
        rounds.append(Round(number, count, {CLIENT.unpack_from(r)[0]: r[CLIENT.size :] for r in rows}))
        at += clients * step
    return rounds


def digest(arrays: Mapping[str, NDArray[np.generic]]) -> str:
    """SHA-256, in hex, of named arrays: names, types, shapes and numbers; what a replayed model is checked by."""
    whole = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        whole.update(f"{name}\0{array.dtype.str}\0{array.shape}\0".encode())
        whole.update(array.tobytes())
    return whole.hexdigest()
