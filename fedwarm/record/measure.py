"""What was measured of one round's models: right answers, test images and metrics, at the clients or at the server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from fedwarm.core.payload import Payload
from fedwarm.settings.config import PERSONAL


@dataclass(frozen=True)
class Measure:
    """Right answers and test images per client of one round's models; None where a client did not say.

    Attributes:
        central: right answers of the global model, and test images, where those are kept at the server (`data.test = "central"`).
        metrics: others than accuracy by name, the main one first: `global`, `per_client` and `personal` values, `table` and
            `tables` by client, `lower` where less is better, `ranks` false where neither is; what is missing was not measured.
        validation: the same on the examples that clients hold back, where they do; models are chosen by it.
    """

    round: int
    tests: tuple[int | None, ...]
    right_global: tuple[int | None, ...]
    right_personal: tuple[int | None, ...]
    central: tuple[int, int] | None = None
    metrics: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    validation: Measure | None = None

    @classmethod
    def of(cls, number: int, clients: int, replies: Mapping[int, Payload], central: tuple[int, int] | None = None) -> Measure:
        """Out of the clients' replies, by partition."""
        found = cls._of("num-test", "", number, clients, replies)
        back = cls._of("num-validation", "validation-", number, clients, replies)
        return replace(found, central=central, validation=back if back.clients else None)

    @classmethod
    def _of(cls, count: str, before: str, number: int, clients: int, replies: Mapping[int, Payload]) -> Measure:

        def column(name: str) -> tuple[int | None, ...]:
            values = [replies[c].metrics.get(name) if c in replies else None for c in range(clients)]
            return tuple(None if v is None else int(v) for v in values)

        return cls(number, column(count), column(f"correct-{before}global"), column(f"correct-{before}personal"))

    def with_metrics(self, metrics: Mapping[str, Any], validation: Mapping[str, Any]) -> Measure:
        """With metrics of the test examples, and of those held back."""
        back = None if self.validation is None else replace(self.validation, metrics=validation)
        return replace(self, metrics=metrics, validation=back)

    @classmethod
    def read(cls, told: Mapping[str, Any]) -> Measure:
        """Out of what `told` gave."""
        tests, shared, own = (tuple(told[name]) for name in ("tests", "right_global", "right_personal"))
        central, back = told.get("central"), told.get("validation")
        at_server = None if central is None else (int(central[0]), int(central[1]))
        validation = None if back is None else cls.read(back)
        return cls(told["round"], tests, shared, own, at_server, dict(told.get("metrics", {})), validation)

    def told(self) -> dict[str, Any]:
        """As JSON."""
        left_out = {name for name in ("central", "metrics", "validation") if not getattr(self, name)}
        return {name: value for name, value in asdict(replace(self, validation=None)).items() if name not in left_out} | (
            {} if self.validation is None else {"validation": self.validation.told()}
        )

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
        """A metric of the global model, or the main one of the clients' own models: their mean (`personal`) or `worst`.

        A method without a global model, or without personal ones, is watched by those that it has.
        """
        name = self.watched(watch)
        if name is None:
            shared, own = self.accuracy, self.shares(self.right_personal)
        else:
            shared, own = self.metrics[name].get("global"), list(self.metrics[name].get("personal", ()))
        personal = [value for value in own if value is not None]
        if not personal or (watch not in PERSONAL and shared is not None):
            return shared
        worst = max if self.lower(watch) else min
        return worst(personal) if watch == "worst" else sum(personal) / len(personal)

    def watched(self, watch: str) -> str | None:
        """Which of the metrics is watched; None where it is accuracy as it is counted."""
        counted = any(right is not None for right in (*self.right_global, *self.right_personal, self.central))
        name = next(iter(self.metrics), None) if watch in PERSONAL and not counted else watch
        return name if name in self.metrics else None

    def lower(self, watch: str) -> bool:
        """Whether less is better of what is watched."""
        name = self.watched(watch)
        return name is not None and bool(self.metrics[name].get("lower", False))

    def pooled(self, right: Sequence[int | None]) -> float | None:
        """Accuracy over the union of the test images of the clients that answered."""
        pairs = [(r, n) for r, n in zip(right, self.tests, strict=True) if r is not None and n]
        return sum(r for r, _ in pairs) / sum(n for _, n in pairs) if pairs else None
