"""Relative entropy coding of a vector in blocks: minimal random coding with shared candidates.

Havasi, Peharz, Hernandez-Lobato, "Minimal Random Code Learning", ICLR 2019 (arXiv 1810.00440), with a prior N(0, sigma^2 I) and a
posterior N(v, sigma^2 I) of the same variance, so that the log-weight of candidate z is <z, v> / sigma^2 up to a constant.
Everything here is in units of sigma. The working set of the encoder is bounded: CHUNK normals at a time, whatever d and K are.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from fedwarm.coding import device as on_device
from fedwarm.coding.packing import MOST_BITS, CodeError
from fedwarm.coding.streams import PER_WORD, Key, Stream, Words, table, wide_table
from fedwarm.privacy.randomness import SYSTEM, Source, gumbels

CPU = torch.device("cpu")
CHUNK = 1 << 16
WORKING_BYTES = CHUNK * (2 + 8 + 8 + 8) + (1 << MOST_BITS) * 5 * 8
"""Most bytes the encoder holds beside its input, its output and the table: of a chunk the uint16 codes, their indices, their
float64 normals and the update's numbers; of a block the K log-weights and their Gumbel draws in the making."""


def log_weights(key: Key, v: NDArray[np.float64], bits: int, words: Words | None = None) -> NDArray[np.float64]:
    """l_k = <z_k, v> (K,) for the K = 2^bits candidates of one block; v (m,) in units of sigma, products and sums in float64."""
    return weigh(key, v, 0, 1 << bits, words or Words())


def weigh(key: Key, v: NDArray[np.float64], first: int, count: int, words: Words) -> NDArray[np.float64]:
    """<z_k, v> (count,) of the candidates from `first` on."""
    if v.size > CHUNK:
        return np.array([_one(words.at(key, k), v) for k in range(first, first + count)])
    width = -(-v.size // PER_WORD) * PER_WORD
    v = np.concatenate([v, np.zeros(width - v.size)])
    rows = min(count, CHUNK // width)
    drawn, out = np.empty((rows, width)), np.empty(count)
    for done in range(0, count, rows):
        some = min(rows, count - done)
        np.take(wide_table(), words.rows(key, first + done, some, width), out=drawn[:some], mode="clip")
        out[done : done + some] = drawn[:some] @ v
    return out


def _one(words: Words, v: NDArray[np.float64]) -> float:
    """One long candidate's weight, piece by piece."""
    pieces = (v[i : i + CHUNK] for i in range(0, v.size, CHUNK))
    return float(sum(np.take(wide_table(), words.codes(piece.size)[: piece.size], mode="clip") @ piece for piece in pieces))


def choose(weights: NDArray[np.float64], source: Source = SYSTEM) -> int:
    """A draw from softmax(weights) by Gumbel-max, with private randomness."""
    return int(np.argmax(weights + gumbels(weights.size, source)))


def encode(
    v: NDArray[np.float64],
    starts: NDArray[np.int64],
    bits: int,
    stream: Stream,
    source: Source = SYSTEM,
    device: torch.device = CPU,
) -> NDArray[np.uint16]:
    """The index (B,) of a candidate for each block.

    Args:
        v: the vector (d,), in units of sigma.
        starts: where the blocks begin, and d (B + 1,).
        bits: b, 1 to 16; an index is in [0, 2^b).
        stream: whose candidates; both sides name the same.
        source: private bytes for the choice; never the stream.
        device: where the log-weights are computed; those of secret candidates always on the processor.

    Raises:
        CodeError: v holds NaN or infinity.
    """
    if not np.isfinite(v).all():
        raise CodeError("the vector to encode holds NaN or infinity")
    keys, out = map(stream.key, range(len(starts) - 1)), np.empty(len(starts) - 1, np.uint16)
    if device.type == "cpu" or stream.secret:
        words = stream.words()
        parts = (v[start:end] for start, end in pairwise(starts.tolist()))
        weights: Iterator[NDArray[np.float64]] = (log_weights(*own, bits, words) for own in zip(keys, parts, strict=True))
    else:
        weights = on_device.weights(keys, v, starts, bits, device)
    for j, own in enumerate(weights):
        out[j] = choose(own, source)
    return out


def decode(
    indices: NDArray[np.integer], starts: NDArray[np.int64], stream: Stream, device: torch.device = CPU
) -> NDArray[np.float32]:
    """The chosen candidates (d,), in units of sigma: multiples of 2^-20 below 8, so that float64 sums of them are exact.

    Args:
        indices: (B,), as `encode` gives them.
        starts: where the blocks begin, and d (B + 1,).
        stream: whose candidates.
        device: where they are drawn, the same bits on each; those of secret candidates always on the processor.
    """
    if device.type != "cpu" and not stream.secret:
        keys = [stream.key(j) for j in range(len(indices))]
        return on_device.decode(keys, torch.from_numpy(indices.astype(np.int64)), np.diff(starts), device)
    words, codes = stream.words(), np.empty(int(starts[-1]), np.uint16)
    for j, index in enumerate(indices.tolist()):
        start, end = int(starts[j]), int(starts[j + 1])
        codes[start:end] = words.at(stream.key(j), index).codes(end - start)[: end - start]
    return np.take(table(), codes, mode="clip")
