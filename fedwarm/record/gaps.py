"""What augmentation did to the clients' classes, as `results.json` tells it: counts before and after, and what it cost."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Counts = Sequence[int]


@dataclass(frozen=True)
class Gap:
    """One client: images by class, None where it did not say; seconds, images made and reused, bytes on its disk."""

    client: int
    real: Counts | None
    synthetic: Counts | None
    seconds: float | None = None
    made: int | None = None
    reused: int | None = None
    bytes: int | None = None

    @property
    def after(self) -> Counts | None:
        """Real and synthetic images together."""
        both = self.real is not None and self.synthetic is not None
        return [r + s for r, s in zip(self.real or [], self.synthetic or [], strict=True)] if both else None

    @property
    def distances(self) -> tuple[float, float] | None:
        """How far the classes are from even before and after; None where that is unknown."""
        before, after = distance(self.real), distance(self.after)
        return None if before is None or after is None else (before, after)


@dataclass(frozen=True)
class Augment:
    """What the clients of one run, or of a plan, added to their data.

    Attributes:
        method: how, e.g. `gen-fedsd`.
        clients: what each did.
        shared: the clients' histogram was shared to say what is missing.
        epsilon: what sharing it cost; None where nothing is accounted for.
    """

    method: str
    clients: Sequence[Gap]
    shared: bool = False
    epsilon: float | None = None

    @property
    def real(self) -> list[int]:
        """Real images by class, over the clients that told them."""
        return _columns(gap.real for gap in self.clients)

    @property
    def synthetic(self) -> list[int]:
        """Synthetic images by class, over the clients that told them."""
        return _columns(gap.synthetic for gap in self.clients)

    @property
    def distances(self) -> tuple[float, float] | None:
        """The means over clients of `Gap.distances`."""
        known = [gap.distances for gap in self.clients if gap.distances is not None]
        return (sum(b for b, _ in known) / len(known), sum(a for _, a in known) / len(known)) if known else None

    @property
    def seconds(self) -> float | None:
        """Of all clients together."""
        return self.total("seconds")

    def total(self, name: str) -> float | None:
        """The sum over clients of `seconds`, `made`, `reused` or `bytes`; None where no client told it."""
        known = [value for gap in self.clients if (value := getattr(gap, name)) is not None]
        return sum(known) if known else None


def distance(counts: Counts | None) -> float | None:
    """Total variation distance of a histogram (C,) to the uniform law; None of nothing."""
    from fedwarm.data.classes import imbalance

    return imbalance(counts) if counts and sum(counts) else None


def read_augment(raw: Mapping[str, Any] | None) -> Augment | None:
    """The entry `augment` of `results.json`; None where nothing was augmented.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: it does not follow the schema.
    """
    if not raw:
        return None
    histogram = raw.get("histogram")
    epsilon = None if histogram is None else histogram.get("epsilon")
    clients = [_gap(k, entry or {}) for k, entry in enumerate(raw["per_client"])]
    classes = {len(row) for gap in clients for row in (gap.real, gap.synthetic) if row is not None}
    if len(classes) > 1:
        raise ValueError(f"the clients count {' and '.join(map(str, sorted(classes)))} classes")
    return Augment(str(raw.get("method", "")), clients, histogram is not None, None if epsilon is None else float(epsilon))


def _gap(place: int, entry: Mapping[str, Any]) -> Gap:
    real, synthetic = (None if entry.get(k) is None else [int(n) for n in entry[k]] for k in ("real", "synthetic"))
    made, reused, size = (None if entry.get(k) is None else int(entry[k]) for k in ("made", "reused", "bytes"))
    seconds = None if entry.get("seconds") is None else float(entry["seconds"])
    return Gap(int(entry.get("partition", place)), real, synthetic, seconds, made, reused, size)


def _columns(rows: Iterable[Counts | None]) -> list[int]:
    known = [row for row in rows if row is not None]
    return [sum(column) for column in zip(*known, strict=True)]
