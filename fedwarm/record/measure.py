"""What was measured of one round's models: right answers and test images, at the clients or at the server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from fedwarm.core.payload import Payload


@dataclass(frozen=True)
class Measure:
    """Right answers and test images per client of one round's models; None where a client did not say.

    Attributes:
        central: right answers of the global model, and test images, where those are kept at the server (`data.test = "central"`).
    """

    round: int
    tests: tuple[int | None, ...]
    right_global: tuple[int | None, ...]
    right_personal: tuple[int | None, ...]
    central: tuple[int, int] | None = None

    @classmethod
    def of(cls, number: int, clients: int, replies: Mapping[int, Payload], central: tuple[int, int] | None = None) -> Measure:
        """Out of the clients' replies, by partition."""

        def column(name: str) -> tuple[int | None, ...]:
            values = [replies[c].metrics.get(name) if c in replies else None for c in range(clients)]
            return tuple(None if v is None else int(v) for v in values)

        return cls(number, column("num-test"), column("correct-global"), column("correct-personal"), central)

    @classmethod
    def read(cls, told: Mapping[str, Any]) -> Measure:
        """Out of what `told` gave."""
        tests, shared, own = (tuple(told[name]) for name in ("tests", "right_global", "right_personal"))
        central = told.get("central")
        return cls(told["round"], tests, shared, own, None if central is None else (int(central[0]), int(central[1])))

    def told(self) -> dict[str, Any]:
        """As JSON."""
        return {name: value for name, value in asdict(self).items() if name != "central" or value is not None}

    @property
    def accuracy(self) -> float | None:
        """The global model's: at the server, or over the union of the test images of the clients that answered."""
        if self.central is not None:
            return self.central[0] / self.central[1] if self.central[1] else None
        return self.pooled(self.right_global)

    @property
    def clients(self) -> int:
        """How many clients measured."""
        return sum(n is not None for n in self.tests)

    @property
    def complete(self) -> bool:
        """Whether the server did, or all clients."""
        return self.central is not None or self.clients == len(self.tests)

    @property
    def images(self) -> int:
        """Test images that were looked at."""
        return self.central[1] if self.central is not None else sum(n for n in self.tests if n)

    def shares(self, right: Sequence[int | None]) -> list[float | None]:
        """Accuracy per client; None where there is no test image."""
        return [None if r is None or not n else r / n for r, n in zip(right, self.tests, strict=True)]

    def value(self, watch: str) -> float | None:
        """The global accuracy (`accuracy`), the mean (`personal`) or least (`worst`) of the clients' own models.

        A method without a global model, or without personal ones, is watched by those that it has.
        """
        personal = [a for a in self.shares(self.right_personal) if a is not None]
        if not personal or (watch == "accuracy" and self.accuracy is not None):
            return self.accuracy
        return min(personal) if watch == "worst" else sum(personal) / len(personal)

    def pooled(self, right: Sequence[int | None]) -> float | None:
        """Accuracy over the union of the test images of the clients that answered."""
        pairs = [(r, n) for r, n in zip(right, self.tests, strict=True) if r is not None and n]
        return sum(r for r, _ in pairs) / sum(n for _, n in pairs) if pairs else None
