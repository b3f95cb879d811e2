"""How a round's updates become one: mean, median, trimmed mean or Krum, each with norm clipping, and which update is refused.

Coordinate-wise median and trimmed mean: Yin, Chen, Kannan, Bartlett, "Byzantine-Robust Distributed Learning: Towards Optimal
Statistical Rates", ICML 2018, arXiv 1803.01498. Krum and multi-Krum: Blanchard, El Mhamdi, Guerraoui, Stainer, "Machine Learning
with Adversaries: Byzantine Tolerant Gradient Descent", NeurIPS 2017, arXiv 1703.02757. Norm clipping: Sun, Kairouz, Suresh,
McMahan, "Can You Really Backdoor Federated Learning?", arXiv 1911.07963.

An update is x_k - w, of what client k sent and the reference w it started from. Norms and distances go over all float arrays
together; integer arrays (counters) have no part in them.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fedwarm.core.arrays import Arrays, WeightedMean
from fedwarm.core.sums import lanes, norm, total
from fedwarm.settings.fields import CHOSEN, Group, setting

Floats = NDArray[np.float64]
Named = Mapping[str, NDArray[np.generic]]
SLACK = 10.0
FLOOR = 0.1
BLOCK = 2**18


@dataclass(frozen=True)
class Robust(Group, prefix="robust"):
    """Settings of robust aggregation."""

    rule: str = setting(
        "mean",
        "how a round's updates become one",
        choices=("mean", "median", "trimmed_mean", "krum"),
        when=lambda r: r.averages or r.hides,
    )
    clip_norm: float = setting(
        0.0,
        "L2 norm to which a client's update is clipped before the rule; 0: not at all",
        low=0.0,
        when=lambda r: r.averages or r.hides,
    )
    trim: float = setting(
        0.2, "share of replies that trimmed_mean cuts off at each end, at least one of 3", low=0.0, high=0.49, when=CHOSEN
    )
    byzantine: int = setting(1, "f of krum, the clients that may lie; it needs 2 f + 3 replies", low=0, when=CHOSEN)
    keep: int = setting(1, "m of krum, the replies that are averaged; more than 1: multi-Krum", low=1, when=CHOSEN)
    limit: float = setting(
        100.0,
        "an update longer than so many times the model is refused; 0: none is",
        low=0.0,
        when=lambda r: r.uploads and not r.hides,
    )


class Aggregator(Protocol):
    """What takes a round's replies in, one at a time, and makes one of them; `WeightedMean` is one."""

    def add(self, arrays: Arrays, weight: float) -> None:
        """Add one client's arrays; ValueError where they do not fit or the weight is not positive."""

    def result(self) -> Arrays:
        """The arrays in the dtypes of the first client's; ValueError where nothing or too little was added."""


class Held(ABC):
    """A rule that must see all replies at once: it holds every one until the end, n times the model's memory.

    Weights are checked and not used: how many examples a client has is its own claim, by which one liar would outweigh the rest.
    """

    def __init__(self) -> None:
        self.replies: list[Arrays] = []

    def add(self, arrays: Arrays, weight: float) -> None:
        """Keep one client's arrays, which are not copied and must not change.

        Raises:
            ValueError: names or shapes differ from the first client's, or the weight is not positive.
        """
        if not (weight > 0 and np.isfinite(weight)):
            raise ValueError(f"weight {weight} is not positive and finite")
        if self.replies:
            _check_like(arrays, self.replies[0])
        self.replies.append(dict(arrays))

    def result(self) -> Arrays:
        """One out of all, integer arrays rounded back to their dtype; ValueError where less was added than the rule needs."""
        if not self.replies:
            raise ValueError("the aggregate of nothing")
        return self.combine()

    @abstractmethod
    def combine(self) -> Arrays:
        """The rule, on at least one reply."""


class ByCoordinate(Held):
    """A rule for every coordinate on its own, e.g. `median` or `trimmed_mean`.

    Args:
        rule: (n, d) float64, the clients' values of d coordinates -> (d,).
    """

    def __init__(self, rule: Callable[[Floats], Floats]) -> None:
        super().__init__()
        self.rule = rule

    def combine(self) -> Arrays:
        out: Arrays = {}
        for name, array in self.replies[0].items():
            values = np.concatenate([np.empty(0), *map(self.rule, _blocks(self.replies, name))])
            out[name] = _cast(values.reshape(array.shape), array.dtype)
        return out


class Krum(Held):
    """The mean of the `keep` replies that lie nearest to their neighbours (Blanchard et al. 2017, Section 4; ties: the earlier).

    Args:
        byzantine: f, how many replies may be anything.
        keep: m; 1 is Krum, which gives one client's arrays as they are.

    It needs n >= 2 f + 3 replies, and n >= m + f, since all m must be honest.
    """

    def __init__(self, byzantine: int, keep: int = 1) -> None:
        super().__init__()
        self.byzantine, self.keep = byzantine, keep
        self.fewest = max(2 * byzantine + 3, keep + byzantine)

    def combine(self) -> Arrays:
        if len(self.replies) < self.fewest:
            numbers = f"robust.byzantine = {self.byzantine} and robust.keep = {self.keep}"
            raise ValueError(f"krum with {numbers} needs at least {self.fewest} replies, got {len(self.replies)}")
        chosen = np.argsort(krum_scores(self.replies, self.byzantine), kind="stable")[: self.keep]
        mean = WeightedMean()
        for i in sorted(chosen.tolist()):
            mean.add(self.replies[i], 1.0)
        return mean.result()


class Clipped:
    """Norm clipping before any rule (Sun et al. 2019): x_k becomes w + (x_k - w) min(1, C / ||x_k - w||), with C = `clip_norm`
    and w = `reference`, the arrays that the clients were sent; integer arrays stay, and so do those that `reference` does not
    hold, such as quantizers that clients have just begun to learn.
    """

    def __init__(self, inner: Aggregator, reference: Arrays, clip_norm: float) -> None:
        self.inner, self.reference, self.clip_norm = inner, reference, clip_norm

    def add(self, arrays: Arrays, weight: float) -> None:
        """Clip one client's arrays and pass them on; ValueError where they are not like the reference, or as the rule says."""
        known = {name: array for name, array in arrays.items() if name in self.reference}
        length = update_norm(known, self.reference)
        clipped = along(known, self.reference, self.clip_norm / length) if length > self.clip_norm else known
        self.inner.add({**arrays, **clipped}, weight)

    def result(self) -> Arrays:
        """What the rule makes of the clipped replies; ValueError as the rule says."""
        return self.inner.result()


def aggregator(settings: Robust, reference: Arrays) -> Aggregator:
    """A fresh aggregator of the settings; `mean` keeps one running sum, the other rules hold all replies.

    Updates are measured from `reference`, the arrays that the clients were sent.
    """
    rules: dict[str, Callable[[], Aggregator]] = {
        "mean": WeightedMean,
        "median": lambda: ByCoordinate(median),
        "trimmed_mean": lambda: ByCoordinate(partial(trimmed_mean, trim=settings.trim)),
        "krum": lambda: Krum(settings.byzantine, settings.keep),
    }
    rule = rules[settings.rule]()
    return Clipped(rule, reference, settings.clip_norm) if settings.clip_norm else rule


def needs(settings: Robust) -> int:
    """The fewest replies with which the settings' rule gives a result."""
    return Krum(settings.byzantine, settings.keep).fewest if settings.rule == "krum" else 1


def median(values: Floats) -> Floats:
    """The middle of (n, d) along n, or the mean of the two in the middle: (d,) (Yin et al. 2018, Definition 1)."""
    middle: Floats = np.median(values, axis=0)
    return middle


def trimmed_mean(values: Floats, trim: float) -> Floats:
    """The mean of (n, d) along n without the `cuts` smallest and largest: (d,) (Yin et al. 2018, Definition 2)."""
    cut = cuts(len(values), trim)
    kept = np.sort(values, axis=0)[cut : len(values) - cut]
    mean: Floats = reduce(np.add, kept) / len(kept)
    return mean


def cuts(count: int, trim: float) -> int:
    """Replies that a trimmed mean cuts off at each end: floor(trim count), but one where trim > 0 and there are three or more."""
    least = 1 if trim > 0 and count >= 3 else 0
    return max(least, math.floor(trim * count + 1e-9))


def krum_scores(replies: Sequence[Arrays], byzantine: int) -> Floats:
    """s(i) = sum of ||x_i - x_j||^2 over the n - f - 2 replies j nearest to i, itself not counted: (n,)."""
    squares = _squared_distances(replies)
    np.fill_diagonal(squares, np.inf)
    nearest = np.sort(squares, axis=1)[:, : len(replies) - byzantine - 2]
    return np.array([total(row) for row in nearest.tolist()])


def _squared_distances(replies: Sequence[Arrays]) -> Floats:
    """||x_i - x_j||^2: (n, n), from differences, since ||x||^2 + ||y||^2 - 2 x.y loses what is small beside a liar's norm."""
    squares = np.zeros((len(replies), len(replies)))
    with np.errstate(over="ignore", invalid="ignore"):
        for name in sorted(floats(replies[0])):  # replies that came by way of a file have another order
            for values in _blocks(replies, name):
                for i in range(len(replies) - 1):
                    parts = lanes(np.square(values[i + 1 :] - values[i]))
                    squares[i, i + 1 :] += [total(row) for row in parts.tolist()]
    return squares + squares.T


def along(arrays: Arrays, reference: Named, factor: float) -> Arrays:
    """w + factor (x - w) for float arrays, in their dtypes; integer arrays as they are. A name the reference lacks has w = 0.

    Values that the dtype cannot hold become infinite.
    """
    out = dict(arrays)
    with np.errstate(over="ignore"):
        for name in floats(arrays):
            start = reference[name].astype(np.float64) if name in reference else np.float64(0)
            out[name] = _cast(start + factor * (arrays[name].astype(np.float64) - start), arrays[name].dtype)
    return out


def update_norm(arrays: Named, reference: Named) -> float:
    """||x - w|| in float64 over all float arrays together.

    Raises:
        ValueError: names or shapes differ.
    """
    _check_like(arrays, reference)
    return _norm(arrays, reference)


def reference_norm(reference: Named) -> float:
    """||w||, but at least FLOOR sqrt(d) for d numbers, so that a model which starts at zero has a length too."""
    return max(_norm(reference), FLOOR * math.sqrt(sum(reference[name].size for name in floats(reference))))


def too_large(norm: float, reference_norm: float, accepted_norms: Sequence[float], limit: float) -> bool:
    """Whether an update is refused for its length: it is not finite, or

    - longer than `limit` times the reference, or
    - longer than `SLACK limit` times the longest update that was accepted lately (where one was that is not 0).

    The first catches a fault in the first rounds; the second when updates are so short that even a spoilt one is no longer than
    the model. At the default of 100: where honest updates, now and in the history, are within a factor of 1000 of one another and
    at most 100 times as long as the reference, none is refused, and each is if made a million times longer. Without a history the
    latter holds for those longer than 1e-4 of the reference.

    Args:
        norm: ||x_k - w||, from `update_norm`.
        reference_norm: from `reference_norm`.
        accepted_norms: those of earlier rounds that were accepted, some rounds back; not of this round, whose order is chance.
        limit: the setting; 0 refuses nothing.
    """
    if limit == 0:
        return False
    longest = max(accepted_norms, default=0.0)
    return not math.isfinite(norm) or norm > limit * reference_norm or (longest > 0 and norm > SLACK * limit * longest)


def floats(arrays: Named) -> list[str]:
    """The names of the float arrays."""
    return [name for name, array in arrays.items() if np.issubdtype(array.dtype, np.floating)]


def _check_like(arrays: Named, like: Named) -> None:
    if arrays.keys() != like.keys():
        raise ValueError(f"arrays differ in their names: {sorted(arrays.keys() ^ like.keys())[:5]}")
    for name, array in arrays.items():
        if array.shape != like[name].shape:
            raise ValueError(f"{name} has shape {array.shape}, expected {like[name].shape}")


def _blocks(replies: Sequence[Arrays], name: str) -> Iterator[Floats]:
    """One array of all replies in float64, (n, d), some coordinates at a time."""
    rows = [reply[name].reshape(-1) for reply in replies]
    for start in range(0, rows[0].size, BLOCK):
        yield np.stack([row[start : start + BLOCK].astype(np.float64) for row in rows])


def _cast(values: Floats, dtype: np.dtype[np.generic]) -> NDArray[np.generic]:
    return np.asarray(np.rint(values) if np.issubdtype(dtype, np.integer) else values).astype(dtype)


def _norm(arrays: Named, less: Named | None = None) -> float:
    """||x - less|| over all float arrays together."""
    return norm((arrays[name], None if less is None else less[name]) for name in floats(arrays))
