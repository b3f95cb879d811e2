"""A run as its folder tells it: rounds, what was reached and what it cost, and what follows from these."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedwarm.core.inputs import Form
from fedwarm.record.gaps import Augment
from fedwarm.settings.fields import SettingError
from fedwarm.settings.kinds import METHODS
from fedwarm.settings.registry import summary

WHOSE = {"accuracy": "global ", "personal": "personal ", "worst": "worst personal "}
Json = dict[str, Any]


@dataclass(frozen=True)
class Best:
    """The round whose model was kept as the best, and the value that was watched.

    Attributes:
        what: the metric's title.
        measured_on: `validation` or `test`; empty where that was not written down.
    """

    round: int
    watch: str
    value: float
    share: bool = True
    what: str = "accuracy"
    measured_on: str = field(default="", compare=False)

    @property
    def text(self) -> str:
        return f"{WHOSE.get(self.watch, '')}{self.what}"

    @property
    def place(self) -> str:
        """The examples it was measured on, as the end of a sentence."""
        return {"validation": ", on validation", "test": ", on test examples"}.get(self.measured_on, "")

    @property
    def form(self) -> str:
        """How its value is written: shares in percent, others as numbers."""
        return "percent" if self.share else "number"


@dataclass(frozen=True)
class Round:
    """What one round reached and cost; `clients` and `personal` are per client, `up` and `down` bytes per client.

    Attributes:
        metrics, own_metrics: metrics beside accuracy, of the global model and of the clients' own, as results.json has them.
        validation: what examples that clients hold back came to, as results.json has it.
    """

    number: int
    accuracy: float | None
    clients: list[float | None]
    personal: list[float | None]
    up: list[int]
    down: list[int]
    evaluation_bytes: int
    seconds: float
    train_loss: float | None
    failures: list[str]
    metrics: Json = field(default_factory=dict)
    own_metrics: Json = field(default_factory=dict)
    validation: Json = field(default_factory=dict)

    @property
    def personal_mean(self) -> float | None:
        return mean(self.personal)

    def metric(self, name: str) -> float | None:
        """The global model's metric of a name."""
        return (self.metrics.get(name) or {}).get("value")

    def own_metric(self, name: str) -> float | None:
        """The mean of a metric of the clients' own models."""
        return mean((self.own_metrics.get(name) or {}).get("per_client") or [])

    @property
    def worst_tenth(self) -> float | None:
        return worst_tenth(self.clients)

    @property
    def personal_worst_tenth(self) -> float | None:
        return worst_tenth(self.personal)


@dataclass(frozen=True)
class Run:
    """A run folder, read and checked.

    Attributes:
        bit_widths: the final model's accuracies by `w4`, `w4a4`, ...
        measured: what measures found, by name.
        tables: of the last round's metrics that are tables, by name: `all` and `per_client`.
        inputs: what one input looks like.
        held: where data are the nodes' own, which classes each says it has; None of one that does not tell.
    """

    folder: Path
    method: str
    seed: int
    engine: str
    settings: dict[str, Any]
    versions: dict[str, str]
    commit: str | None
    clients: int
    classes: list[str]
    counts: list[list[int]] | None
    sites: list[str]
    rounds: list[Round]
    accuracy: float | None
    personal_mean: float | None
    personal_worst: float | None
    best: Best | None
    bit_widths: dict[str, float]
    augment: Augment | None
    up: int
    down: int
    seconds: float
    privacy: Json | None
    notes: list[str]
    stages: list[tuple[str, float]]
    ledger: list[Json]
    unread_lines: int
    complete: bool
    evaluation: Json = field(default_factory=dict)
    held: list[list[str] | None] | None = None
    measured: Json = field(default_factory=dict)
    tables: Json = field(default_factory=dict)
    inputs: Form = field(default_factory=lambda: Form.picture(0))

    @property
    def tested_on(self) -> str:
        """What accuracies are measured on, in words."""
        images, split = self.evaluation.get("images"), self.evaluation.get("split")
        some = f"the {images:,} images" if isinstance(images, int) else "the images"
        words = {
            "split": f"{some} of the data set's own split {split!r}, dealt to the clients",
            "central": f"{some} of the data set's own split {split!r}, at the server",
        }
        return words.get(str(self.evaluation.get("test")), f"{some} held out of the clients' own")

    @property
    def main(self) -> tuple[str, Json] | None:
        """The metric in accuracy's place, by name, and what it is; None where right answers are counted."""
        counted = self.evaluation.get("counted", True)
        return None if counted else next(iter((self.evaluation.get("metrics") or {}).items()), None)

    @property
    def title(self) -> str:
        marks = [" (reference, not federated)"] * self.reference + [" (unfinished)"] * (not self.complete)
        return self.method + "".join(marks)

    @property
    def reference(self) -> bool:
        return bool(getattr(self._declared, "reference", False))

    @property
    def summary(self) -> str:
        return "" if self._declared is None else summary(self._declared)

    @property
    def _declared(self) -> object:
        """What the method says of itself; None of one that is not there, or cannot be loaded."""
        with suppress(SettingError):
            return METHODS.load(self.method)
        return None

    @property
    def up_per_client(self) -> float:
        return self.up / max(1, self.clients)

    @property
    def down_per_client(self) -> float:
        return self.down / max(1, self.clients)

    @property
    def client_mean(self) -> float | None:
        """The global model's accuracy, each client counting the same."""
        return mean(self.last("clients"))

    @property
    def worst_tenth(self) -> float | None:
        """The global model's mean accuracy on the worst tenth of the clients."""
        return worst_tenth(self.last("clients"))

    @property
    def personal_worst_tenth(self) -> float | None:
        """The mean accuracy of the worst tenth of the personal models."""
        return worst_tenth(self.last("personal"))

    @property
    def epsilon(self) -> float | None:
        """What the clients' privacy was spent down to, where it is accounted for."""
        spent = (self.privacy or {}).get("epsilon")
        return float(spent) if isinstance(spent, (int, float)) else None

    @property
    def privacy_rows(self) -> list[tuple[str, Any]]:
        """What is said of privacy, one value a row; of what has parts, `name, part`."""
        rows: list[tuple[str, Any]] = []
        for name, value in (self.privacy or {}).items():
            rows += [(f"{name}, {part}", one) for part, one in value.items()] if isinstance(value, dict) else [(name, value)]
        return rows

    @property
    def failures(self) -> list[str]:
        return [f"round {r.number}, {failure}" for r in self.rounds for failure in r.failures]

    def called(self, client: int) -> str:
        """A client's row in tables: its number, after its site's name where it has one."""
        name = self.sites[client] if client < len(self.sites) else ""
        return f"{name} ({client})" if name else str(client)

    def last(self, kind: str) -> list[float | None]:
        """The last accuracies per client that were measured, of `clients` (the global model) or `personal`; one for each."""
        columns: list[list[float | None]] = [getattr(r, kind) for r in self.rounds]
        newest = next((column for column in reversed(columns) if any(v is not None for v in column)), [])
        return newest + [None] * (self.clients - len(newest))


def mean(values: Iterable[float | None]) -> float | None:
    """The mean of what is known, None of nothing."""
    known = [v for v in values if v is not None]
    return statistics.fmean(known) if known else None


def worst_tenth(values: Iterable[float | None]) -> float | None:
    """The mean of the worst tenth of what is known, None of nothing."""
    known = sorted(v for v in values if v is not None)
    count = max(1, len(known) // 10)
    return sum(known[:count]) / count if known else None
