"""How a round's updates become one, by a robust rule each in a file of its own; norm clipping goes before any of them.

Norm clipping: Sun, Kairouz, Suresh, McMahan, "Can You Really Backdoor Federated Learning?", arXiv 1911.07963.

A rule is one of two:

- a function (values, settings) -> combined for every coordinate on its own: `values` (n, d) float64 are what n clients have at d
  coordinates, `combined` (d,) is what the model gets there. It is called block by block for all arrays, and its numbers are cast
  back to the arrays' dtype
- a class made with the settings `Robust` that takes whole replies: an `Aggregator`, most easily a `Held`. Its result must be the
  same in whatever order replies come, but for rounding

Facts beside it (`registry.component`, or attributes of the class): `fewest`, a function (settings) -> the fewest replies that it
can do with, where that is more than one; `uses`, the keys `robust.*` that it takes; `does`, `unweighted` for every rule that does
not look at weights. The settings of a rule's own group are had by `settings.of(Group)`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import numpy as np

from fedwarm.core.arrays import Arrays
from fedwarm.core.norms import Floats, along, blocks, cast, check_like, update_norm
from fedwarm.settings.fields import CHOSEN, Group, setting
from fedwarm.settings.kinds import RULES

G = TypeVar("G", bound="Group")


@dataclass(frozen=True)
class Robust(Group, prefix="robust"):
    """Settings of robust aggregation."""

    rule: str = setting(
        "mean",
        "aggregation of a round's updates; mean; krum, median, trimmed_mean: robust against faulty clients",
        choices=RULES,
        when=lambda r: r.averages or r.hides,
    )
    clip_norm: float = setting(
        0.0,
        "L2 norm to which each update is clipped before aggregation; 0: no clipping",
        low=0.0,
        when=lambda r: r.averages or r.hides,
    )
    trim: float = setting(
        0.2,
        "fraction of the replies that trimmed_mean drops at each end; at least one where there are 3 or more",
        low=0.0,
        high=0.49,
        when=CHOSEN,
    )
    byzantine: int = setting(
        1, "f of krum, the number of malicious clients to withstand; needs at least 2 f + 3 replies", low=0, when=CHOSEN
    )
    keep: int = setting(1, "m of krum, the number of replies that are averaged; more than 1: multi-Krum", low=1, when=CHOSEN)
    limit: float = setting(
        100.0,
        "a reply whose update has more than this many times the model's norm is left out; 0: no limit",
        low=0.0,
        when=lambda r: r.uploads and not r.hides,
    )
    own_settings: tuple[Group, ...] = field(default=(), repr=False)

    def of(self, group: type[G]) -> G:
        """The settings of the chosen rule; their defaults where it is chosen without a run."""
        return next((found for found in self.own_settings if isinstance(found, group)), None) or group()


class Aggregator(Protocol):
    """What takes a round's replies in, one at a time, and makes one of them; `WeightedMean` is one."""

    def add(self, arrays: Arrays, weight: float) -> None:
        """Add one client's arrays; ValueError where they do not fit or the weight is not positive."""

    def result(self) -> Arrays:
        """The arrays in the dtypes of the first client's; ValueError where nothing or too little was added."""


def unweighted(run: Any) -> Mapping[str, bool]:
    """The fact that a rule does not look at weights (of `does`, see `fedwarm.relevance`)."""
    return {"weighs": False}


class Held(ABC):
    """A rule that must see all replies at once: it holds every one until the end, n times the model's memory.

    Weights are checked and not used: how many examples a client has is its own claim, by which one liar would outweigh the rest.
    """

    does = staticmethod(unweighted)

    def __init__(self, robust: Robust) -> None:
        self.robust = robust
        self.replies: list[Arrays] = []

    def add(self, arrays: Arrays, weight: float) -> None:
        """Keep one client's arrays, which are not copied and must not change.

        Raises:
            ValueError: names or shapes differ from the first client's, or the weight is not positive.
        """
        if not (weight > 0 and np.isfinite(weight)):
            raise ValueError(f"weight {weight} is not positive and finite")
        if self.replies:
            check_like(arrays, self.replies[0])
        self.replies.append(dict(arrays))

    def result(self) -> Arrays:
        """One out of all, integer arrays rounded back to their dtype; ValueError where less was added than the rule needs."""
        if not self.replies:
            raise ValueError("no replies to aggregate")
        return self.combine()

    @abstractmethod
    def combine(self) -> Arrays:
        """The rule, on at least one reply."""


class ByCoordinate(Held):
    """A rule that is a function of every coordinate on its own."""

    def __init__(self, robust: Robust, rule: Callable[[Floats, Robust], Floats]) -> None:
        super().__init__(robust)
        self.rule = rule

    def combine(self) -> Arrays:
        least = needs(self.robust)
        if len(self.replies) < least:
            raise ValueError(f"robust.rule = {self.robust.rule!r} needs at least {least} replies, got {len(self.replies)}")
        out: Arrays = {}
        for name, array in self.replies[0].items():
            parts = [self.rule(values, self.robust) for values in blocks(self.replies, name)]
            out[name] = cast(np.concatenate([np.empty(0), *parts]).reshape(array.shape), array.dtype)
        return out


def clipped(arrays: Arrays, reference: Arrays, clip_norm: float) -> Arrays:
    """Norm clipping (Sun et al. 2019): x_k becomes w + (x_k - w) min(1, C / ||x_k - w||), C = `clip_norm`, 0 for none.

    `reference` is w, the arrays that the clients were sent; integer arrays stay, and so do those that it does not hold, such as
    quantizers that clients have just begun to learn.

    Raises:
        ValueError: the arrays are not like the reference.
    """
    if not clip_norm:
        return arrays
    known = {name: array for name, array in arrays.items() if name in reference}
    length = update_norm(known, reference)
    return {**arrays, **along(known, reference, clip_norm / length)} if length > clip_norm else arrays


class Clipped:
    """Norm clipping before any rule, see `clipped`."""

    def __init__(self, inner: Aggregator, reference: Arrays, clip_norm: float) -> None:
        self.inner, self.reference, self.clip_norm = inner, reference, clip_norm

    def add(self, arrays: Arrays, weight: float) -> None:
        """Clip one client's arrays and pass them on; ValueError where they are not like the reference, or as the rule says."""
        self.inner.add(clipped(arrays, self.reference, self.clip_norm), weight)

    def result(self) -> Arrays:
        """What the rule makes of the clipped replies; ValueError as the rule says."""
        return self.inner.result()


def aggregator(robust: Robust, reference: Arrays) -> Aggregator:
    """A fresh aggregator of the settings.

    Args:
        robust: names the rule.
        reference: the arrays that the clients were sent, from which updates are measured.
    """
    found = RULES.load(robust.rule)
    rule: Aggregator = found(robust) if isinstance(found, type) else ByCoordinate(robust, found)
    return Clipped(rule, reference, robust.clip_norm) if robust.clip_norm else rule


def needs(robust: Robust) -> int:
    """The fewest replies with which the settings' rule gives a result."""
    fewest = getattr(RULES.load(robust.rule), "fewest", None)
    return 1 if fewest is None else int(fewest(robust))
