"""How an update is cut into blocks, each coded by one index, and how much of the update's energy a block is meant to hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedwarm.coding.packing import CodeError

RULES = ("fixed_size", "per_tensor", "kl_adaptive")


@dataclass(frozen=True)
class Blocks:
    """Consecutive blocks.

    Attributes:
        sizes: numbers in each block, all positive.
        shares: the part of ||v||^2 that is expected in each block, positive, sum 1.
    """

    sizes: tuple[int, ...]
    shares: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.sizes or min(self.sizes) < 1 or len(self.sizes) != len(self.shares):
            raise CodeError(f"blocks of sizes {self.sizes[:5]}; each must hold at least one number and have one share")

    def __len__(self) -> int:
        return len(self.sizes)

    @property
    def total(self) -> int:
        """Numbers in all blocks."""
        return sum(self.sizes)

    @property
    def starts(self) -> NDArray[np.int64]:
        """Where each block begins, and the end (B + 1,)."""
        return np.concatenate([[0], np.cumsum(self.sizes)]).astype(np.int64)

    def caps(self, energy: float) -> NDArray[np.float64]:
        """The most squared norm (B,) that a block of a vector with ||v||^2 <= energy may keep, all in units of sigma^2.

        c_max^2 = X share (1 + 2 sqrt(2 / m)): two standard deviations of what a rotated vector puts into m of its numbers.
        """
        sizes, shares = np.asarray(self.sizes, np.float64), np.asarray(self.shares)
        return np.asarray(np.minimum(energy, energy * shares * (1 + 2 * np.sqrt(2 / sizes))))

    def spread(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """One value a block (B,) as one value a number (total,)."""
        return np.repeat(values, self.sizes)

    def squares(self, v: NDArray[np.float64]) -> NDArray[np.float64]:
        """||v_j||^2 of each block (B,)."""
        return np.asarray(np.add.reduceat(v * v, self.starts[:-1]))


def _by_size(sizes: Sequence[int]) -> Blocks:
    total = sum(sizes)
    return Blocks(tuple(sizes), tuple(s / total for s in sizes))


def fixed_size(total: int, size: int) -> Blocks:
    """Blocks of `size` numbers; the last holds the rest."""
    if size < 1 or total < 1:
        raise CodeError(f"{total} numbers in blocks of {size}; both must be at least 1")
    whole, rest = divmod(total, size)
    return _by_size([size] * whole + [rest] * bool(rest))


def even(total: int, count: int) -> Blocks:
    """`count` blocks (at most one a number) whose sizes differ by one at most."""
    count = max(1, min(count, total))
    small, more = divmod(total, count)
    return _by_size([small + 1] * more + [small] * (count - more))


def per_tensor(sizes: Sequence[int]) -> Blocks:
    """One block a tensor, each expected to hold energy as its size."""
    return _by_size([s for s in sizes if s])


def kl_adaptive(profile: NDArray[np.floating], count: int) -> Blocks:
    """At most `count` blocks that share a public profile's energy evenly, so that each costs the same KL.

    Args:
        profile: a vector (d,) that everyone knows, e.g. the last round's mean update. Never a client's own update: sizes
            that depend on it would tell of it.
        count: blocks wanted.
    """
    energy = np.square(profile.astype(np.float64))
    if not np.isfinite(energy).all():
        raise CodeError("the profile of the blocks holds NaN or infinity")
    mean = energy.mean()
    energy = energy + (0.1 * mean if mean > 0 else 1.0)  # numbers that stood still may move
    whole = np.cumsum(energy)
    cuts = np.searchsorted(whole, whole[-1] * np.arange(1, max(1, count)) / max(1, count))
    ends = np.unique(np.concatenate([cuts, [energy.size]]))
    ends = ends[ends > 0]
    starts = np.concatenate([[0], ends[:-1]])
    sums = np.add.reduceat(energy, starts)
    return Blocks(tuple(int(n) for n in ends - starts), tuple(float(s) for s in sums / sums.sum()))
