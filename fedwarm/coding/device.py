"""The same streams and log-weights with torch, on any device: the bits of `streams`, by a second implementation of Philox.

int64 arithmetic that wraps stands in for uint64, which torch cannot multiply or shift everywhere. Only the choice of an index
may differ between devices, in the last bits of a log-weight; what an index decodes to never does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from itertools import islice, pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedwarm.coding.streams import PER_WORD, Key, table

MULTIPLIERS = (0xD2E7470EE14C6C93, 0xCA5A826395121157)
WEYL = (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)
ROUNDS = 10
LOW = 0xFFFFFFFF
WORDS_PER_GROUP = 4
CHUNK = 1 << 22


def _signed(x: int) -> int:
    """The int64 with the bits of an unsigned 64-bit number."""
    x &= (1 << 64) - 1
    return x - (1 << 64) if x >> 63 else x


def _high(a: Tensor, b: int) -> Tensor:
    """The upper 64 bits of the unsigned product of int64 bits `a` and a constant."""
    a_high, a_low, b_high, b_low = (a >> 32) & LOW, a & LOW, b >> 32, b & LOW
    middle = a_high * b_low + ((a_low * b_low >> 32) & LOW)
    other = a_low * b_high + (middle & LOW)
    return a_high * b_high + ((middle >> 32) & LOW) + ((other >> 32) & LOW)


def signed(keys: Iterable[Key]) -> Tensor:
    """Keys as int64 (keys, 2)."""
    return torch.tensor([[_signed(k) for k in key] for key in keys], dtype=torch.int64).view(-1, 2)


def philox(keys: Tensor, candidates: Tensor, first_group: int, groups: int) -> Tensor:
    """Philox4x64-10 words as int64 bits, (candidates, 4 groups), from group `first_group` (the first is 1) of each candidate.

    Each candidate is under a key of its own: `keys` is int64 (candidates, 2), or (1, 2) for all of them (see `signed`).
    """
    shape = (candidates.numel(), groups)
    device = candidates.device
    c0 = torch.arange(first_group, first_group + groups, device=device).expand(shape)
    c1, c2 = torch.zeros(shape, dtype=torch.int64, device=device), torch.zeros(shape, dtype=torch.int64, device=device)
    c3 = candidates.to(torch.int64)[:, None].expand(shape)
    for turn in range(ROUNDS):
        k0, k1 = (keys[:, i : i + 1] + _signed(turn * w) for i, w in enumerate(WEYL))
        high0, low0 = _high(c0, MULTIPLIERS[0]), c0 * _signed(MULTIPLIERS[0])
        high1, low1 = _high(c2, MULTIPLIERS[1]), c2 * _signed(MULTIPLIERS[1])
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
    return torch.stack([c0, c1, c2, c3], dim=-1).reshape(shape[0], -1)


@cache
def _table(device: torch.device) -> Tensor:
    return torch.from_numpy(table().copy()).to(device)


def normals(keys: Tensor, candidates: Tensor, count: int, first_group: int = 1) -> Tensor:
    """`count` normals of each candidate, float32 (candidates, count), from `first_group` on; `keys` as in `philox`."""
    groups = -(-count // (WORDS_PER_GROUP * PER_WORD))
    words = philox(keys, candidates, first_group, groups)
    shifts = torch.arange(0, 64, 16, device=words.device)
    codes = (words[:, :, None] >> shifts) & 0xFFFF
    return _table(candidates.device)[codes.reshape(words.shape[0], -1)[:, :count]]


def decode(keys: Sequence[Key], indices: Tensor, lengths: NDArray[np.int64], device: torch.device) -> NDArray[np.float32]:
    """The chosen candidates of blocks, one after the other (sum of lengths,), the keys of many blocks at once.

    Args:
        keys: a block's key each.
        indices: int64 (B,), the candidates.
        lengths: (B,), the blocks' sizes.
    """
    out = torch.empty(int(lengths.sum()), dtype=torch.float32, device=device)
    known, ends = signed(keys), np.cumsum(lengths)
    longest = int(lengths.max(initial=1))
    together = max(1, CHUNK // longest)
    for first in range(0, len(keys), together):
        last = min(first + together, len(keys))
        wide, begin = int(lengths[first:last].max(initial=1)), int(ends[first] - lengths[first])
        drawn = normals(known[first:last].to(device), indices[first:last].to(device), wide)
        held = torch.arange(wide, device=device) < torch.from_numpy(lengths[first:last]).to(device)[:, None]
        out[begin : int(ends[last - 1])] = drawn[held]
    return np.asarray(out.cpu().numpy())


def weights(
    keys: Iterator[Key], v: NDArray[np.float64], starts: NDArray[np.int64], bits: int, device: torch.device
) -> Iterator[NDArray[np.float64]]:
    """`rec.log_weights` (K,) of one block after another on a device, those of many neighbours computed at once.

    Args:
        keys: a block's key each.
        v: all blocks, one after the other (d,).
        starts: where they begin, and d (B + 1,).
        bits: K = 2^bits.
    """
    for first, last in _neighbours(np.diff(starts), 1 << bits):
        known = signed(islice(keys, last - first))
        parts = [torch.from_numpy(v[start:end]) for start, end in pairwise(starts[first : last + 1].tolist())]
        together = torch.nn.utils.rnn.pad_sequence(parts, batch_first=True).to(device)
        yield from _weigh(known.to(device), together, 1 << bits).cpu().numpy()


def _neighbours(lengths: NDArray[np.int64], count: int) -> Iterator[tuple[int, int]]:
    """(first, beyond the last) of blocks that are weighed together: CHUNK normals at most, and no more than half of them filling
    shorter blocks up to the longest; a block that has more by itself is alone."""
    first = longest = whole = 0
    for j, length in enumerate(lengths.tolist()):
        wide, held = max(longest, length), j - first + 1
        if j > first and (held * wide * count > CHUNK or held * wide > 2 * (whole + length)):
            yield first, j
            first, wide, whole = j, length, 0
        longest, whole = wide, whole + length
    if len(lengths):
        yield first, len(lengths)


def _weigh(keys: Tensor, v: Tensor, count: int) -> Tensor:
    """<z_k, v> (B, K) of blocks (B, m) with a key each (B, 2)."""
    blocks, length = v.shape
    width = WORDS_PER_GROUP * PER_WORD
    span = min(CHUNK, -(-length // width) * width)
    rows = max(1, min(count, CHUNK // span))
    out = torch.zeros(blocks, count, dtype=torch.float64, device=v.device)
    for first in range(0, count, rows):
        candidates = torch.arange(first, min(first + rows, count), device=v.device)
        each, numbers = keys.repeat_interleave(len(candidates), 0), candidates.repeat(blocks)
        for start in range(0, length, span):
            piece = v[:, start : start + span]
            drawn = normals(each, numbers, piece.shape[1], 1 + start // width).double()
            out[:, first : first + rows] += torch.bmm(drawn.view(blocks, len(candidates), -1), piece[:, :, None])[:, :, 0]
    return out
