"""The lower bound of the information that two views share over all clients, and how vectors lie; of vectors that are given.

Louizos, Reisser, Korzhenkov, arXiv 2405.02081: with s the client, I(z1; z2) = I(z1; z2 | s) + I(z1; s) - I(z1; s | z2), and

- I(z1; z2 | s) >= E[log N - L], L the contrast within a client among N candidates (van den Oord et al., arXiv 1807.03748).
  That takes independent candidates, as `infonce` has. `nt_xent` has both views of each other image, and may so tell more than
  there is: by less than log(N / images) < log 2, as its denominators are no smaller; by 0.004 nats in what was tried
- I(z1; s) >= H(s) + E log r(s | z1) for any distribution r
- I(z1; s | z2) <= H(s | z2) <= -E log r(s | z2)

Alignment and uniformity: Wang, Isola, arXiv 2005.10242.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fedwarm.tasks.contrast.losses import Contrasted


@dataclass(frozen=True)
class Bound:
    """Nats: `within` log N - L; `first` H(s) + E log r(s | z1); `second` E log r(s | z2); their sum bounds I(z1; z2)."""

    within: float
    first: float
    second: float

    @property
    def total(self) -> float:
        return self.within + self.first + self.second


def bound(shares: Sequence[float], within: Sequence[float], first: Sequence[float], second: Sequence[float]) -> Bound:
    """The bound out of what the clients measured.

    Args:
        shares: p(s), which add up to 1.
        within: E[log N - L] at each client.
        first, second: E log r(s | z1) and E log r(s | z2) there.
    """
    entropy = -sum(p * math.log(p) for p in shares if p)
    means = [math.fsum(p * value for p, value in zip(shares, values, strict=True)) for values in (within, first, second)]
    return Bound(means[0], entropy + means[1], means[2])


class Sums:
    """What one client measures of the bound on its images, batch by batch."""

    def __init__(self) -> None:
        self.values: dict[str, float] = {}
        self.counts: dict[str, int] = {}
        self.right = 0

    def contrasted(self, found: Contrasted) -> None:
        """A batch's contrast."""
        count = len(found.losses)
        self._add("within", float((found.candidates.double().log() - found.losses.double()).sum()), count)

    def lying(self, features: Tensor) -> None:
        """How the features (2 b, d) of both views lie."""
        first, second = features.flatten(1).chunk(2)
        self._add("alignment", len(first) * alignment(first, second), len(first))
        self._add("uniformity", len(first) * uniformity(first), len(first))

    def verified(self, logits: Tensor, place: int) -> None:
        """Whose views they are, by logits (2 b, S) of both, the right answer being `place`; the first views' answers count."""
        first, second = logits.double().log_softmax(1)[:, place].chunk(2)
        self._add("first", float(first.sum()), len(first))
        self._add("second", float(second.sum()), len(second))
        self.right += int((logits.chunk(2)[0].argmax(1) == place).sum())

    def _add(self, name: str, total: float, count: int) -> None:
        self.values[name] = self.values.get(name, 0.0) + total
        self.counts[name] = self.counts.get(name, 0) + count

    def means(self) -> dict[str, int | float]:
        """Means by name; and how many images were known as this client's, where that was looked at."""
        found: dict[str, int | float] = {name: total / self.counts[name] for name, total in self.values.items()}
        return {**found, **({"correct-client": self.right} if "first" in found else {})}


def alignment(first: Tensor, second: Tensor) -> float:
    """Mean squared distance of two views' vectors (n, d), at length 1."""
    return float((F.normalize(first, dim=1) - F.normalize(second, dim=1)).square().sum(1).mean())


def uniformity(vectors: Tensor) -> float:
    """log mean exp(-2 |x - y|^2) over all pairs of vectors (n, d) at length 1; the less, the more evenly they lie. 0 of one."""
    if len(vectors) < 2:
        return 0.0
    return float(torch.pdist(F.normalize(vectors, dim=1)).square().mul(-2).exp().mean().log())
