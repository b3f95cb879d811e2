"""The same streams and log-weights with torch, on any device: the bits of `streams`, by a second implementation of Philox.

int64 arithmetic that wraps stands in for uint64, which torch cannot multiply or shift everywhere. Only the choice of an index
may differ between devices, in the last bits of a log-weight; what an index decodes to never does.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

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


def philox(key: Key, candidates: Tensor, first_group: int, groups: int) -> Tensor:
    """Philox4x64-10 words as int64 bits, (candidates, 4 groups), from group `first_group` (the first is 1) of each candidate."""
    keys = torch.tensor([[_signed(k) for k in key]], device=candidates.device)
    return philox_rows(keys, candidates, first_group, groups)


def philox_rows(keys: Tensor, candidates: Tensor, first_group: int, groups: int) -> Tensor:
    """As `philox`, each candidate under a key of its own: keys int64 (candidates, 2), or (1, 2) for all of them."""
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


def normals(key: Key, candidates: Tensor, count: int, first_group: int = 1) -> Tensor:
    """`count` normals of each candidate, float32 (candidates, count), from the beginning of `first_group`."""
    keys = torch.tensor([[_signed(k) for k in key]], device=candidates.device)
    return normals_rows(keys, candidates, count, first_group)


def normals_rows(keys: Tensor, candidates: Tensor, count: int, first_group: int = 1) -> Tensor:
    """As `normals`, each candidate under a key of its own (see `philox_rows`)."""
    groups = -(-count // (WORDS_PER_GROUP * PER_WORD))
    words = philox_rows(keys, candidates, first_group, groups)
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
    signed = torch.tensor([[_signed(k) for k in key] for key in keys], dtype=torch.int64).view(-1, 2)
    ends = np.cumsum(lengths)
    longest = int(lengths.max(initial=1))
    together = max(1, CHUNK // longest)
    for first in range(0, len(keys), together):
        last = min(first + together, len(keys))
        wide, begin = int(lengths[first:last].max(initial=1)), int(ends[first] - lengths[first])
        drawn = normals_rows(signed[first:last].to(device), indices[first:last].to(device), wide)
        held = torch.arange(wide, device=device) < torch.from_numpy(lengths[first:last]).to(device)[:, None]
        out[begin : int(ends[last - 1])] = drawn[held]
    return np.asarray(out.cpu().numpy())


def log_weights(key: Key, v: NDArray[np.float64], bits: int, device: torch.device) -> NDArray[np.float64]:
    """`rec.log_weights` on a device: <z_k, v> (K,) in float64, CHUNK normals at a time."""
    count, whole = 1 << bits, torch.from_numpy(v).to(device)
    width = WORDS_PER_GROUP * PER_WORD
    span = min(CHUNK, -(-v.size // width) * width)
    rows = max(1, min(count, CHUNK // span))
    out = torch.zeros(count, dtype=torch.float64, device=device)
    for first in range(0, count, rows):
        candidates = torch.arange(first, min(first + rows, count), device=device)
        for start in range(0, v.size, span):
            piece = whole[start : start + span]
            drawn = normals(key, candidates, piece.numel(), 1 + start // width).double()
            out[first : first + rows] += drawn @ piece
    return np.asarray(out.cpu().numpy())
