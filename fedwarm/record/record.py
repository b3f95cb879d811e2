"""The experiment record: what a run was, what it measured and what it cost, as `results.json` version 1.

Everything that happens is an event (a stage, a measurement, a note); a record that replays its events is the same record.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

from fedwarm.core import sums
from fedwarm.core.inputs import Form
from fedwarm.record.ledger import Ledger, of_measure
from fedwarm.record.measure import Measure
from fedwarm.settings.config import Config

ENGINE_VARIABLE = "FEDWARM_ENGINE"
CLOSING = "distill"  # the stage of a method; those of measures close a run, too


class Record:
    """Collects a run's facts; `results` is the document."""

    def __init__(self, config: Config, ledger: Ledger) -> None:
        self.config, self.ledger = config, ledger
        self.engine = os.environ.get(ENGINE_VARIABLE, "flower")
        self.classes: tuple[str, ...] = ()
        self.inputs: Form | None = None
        self.counts: list[list[int]] | None = None
        self.clients = self.cohort = 0
        self.sites: list[str] = []
        self.held: list[list[str] | None] | None = None
        self.events: list[dict[str, Any]] = []
        self.measures: dict[int, Measure] = {}
        self.stages: list[dict[str, Any]] = []
        self.losses: dict[int, float | None] = {}
        self.notes: list[str] = []
        self.privacy: dict[str, Any] | None = None
        self.epsilons: dict[int, float] = {}
        self.parameters = 0
        self.uploads: dict[str, int] = {}
        self.bit_widths: dict[str, float] = {}
        self.augmented: dict[str, Any] = {}
        self.others: dict[str, Any] = {}
        self.trained_on: list[dict[str, Any]] = []
        self.begun = time.monotonic()
        self.complete = False
        self.closing = 0  # stages at the end so far that only close a run: a longer one has them later

    @property
    def seconds(self) -> float:
        """How long the run took so far, in all its parts."""
        return time.monotonic() - self.begun

    def open(
        self,
        config: Config,
        classes: Sequence[str],
        counts: Sequence[Sequence[int] | None],
        sites: Sequence[str] = (),
        held: list[list[str] | None] | None = None,
    ) -> None:
        """The federation is known, or known better than before.

        Args:
            config, classes: of the run.
            counts: training images of each client by class; None of one that does not tell.
            sites: the clients' names, empty where they have none.
            held: where data are the nodes' own, which classes each says it has (None: it does not tell).
        """
        self.sites, self.held = list(sites) if any(sites) else [], held
        self.config, self.classes, self.clients = config, tuple(classes), len(counts)
        self.counts = [list(c) for c in counts if c is not None]
        if len(self.counts) < len(counts):
            self.counts = None

    def measure(self, measure: Measure) -> None:
        """A round's models were measured."""
        self._happened({"measure": measure.told()})

    def stage(self, number: int, name: str, seconds: float, losses: Sequence[float] = ()) -> None:
        """A stage ended."""
        mean = sums.mean(losses) if losses else None
        loss = {} if mean is None else {"loss": mean if math.isfinite(mean) else None}
        self._happened({"stage": {"round": number, "name": name, "seconds": round(seconds, 3)}, **loss})

    def note(self, text: str) -> None:
        """Something that a reader of the record should know."""
        self._happened({"note": text})

    def remark(self, text: str) -> None:
        """A note that is made once, however often the same is found."""
        if text not in self.notes:
            self.note(text)

    def reopen(self, text: str) -> None:
        """A run goes on for longer than was planned: what closed it comes again at its end."""
        self._happened({"note": text, "reopened": True})

    def upload(self, stage: str, numbers: int) -> None:
        """How many numbers a client uploads in a stage."""
        if self.uploads.get(stage) != numbers:
            self._happened({"upload": {"stage": stage, "numbers": numbers}})

    def widths(self, accuracies: Mapping[str, float]) -> None:
        """The final model was measured at several widths."""
        self._happened({"bit_widths": dict(accuracies)})

    def found(self, name: str, values: Mapping[str, Any]) -> None:
        """A measure of that name found this."""
        self._happened({"found": {"name": name, "values": dict(values)}})

    def augment(self, told: Mapping[str, Any]) -> None:
        """Clients filled their class gaps."""
        self._happened({"augment": dict(told)})

    def spend(self, number: int, statement: Mapping[str, Any] | None) -> None:
        """What a method says of its privacy after a stage of a round; None: nothing is accounted for."""
        if statement is not None and (dict(statement) != self.privacy or number not in self.epsilons):
            self._happened({"privacy": {"round": number, **statement}})

    def replay(self, events: Sequence[dict[str, Any]]) -> None:
        """Take in what an earlier part of the run noted."""
        for event in events:
            self._happened(event)

    def _happened(self, event: dict[str, Any]) -> None:
        self.events.append(event)
        if "measure" in event:
            measure = Measure.read(event["measure"])
            self.measures[measure.round] = measure
        if "stage" in event:
            self.stages.append(event["stage"])
            closes = event["stage"]["name"] == CLOSING or of_measure(event["stage"]["name"])
            self.closing = self.closing + 1 if closes else 0
        if "reopened" in event:
            self.closing = 0
        if "loss" in event:
            self.losses[event["stage"]["round"]] = event["loss"]
        if "privacy" in event:
            self.privacy = {name: value for name, value in event["privacy"].items() if name != "round"}
            self.epsilons[event["privacy"]["round"]] = self.privacy["epsilon"]
        if "found" in event:
            self.others[event["found"]["name"]] = event["found"]["values"]
        if "augment" in event:
            self.augmented = event["augment"]
        if "bit_widths" in event:
            self.bit_widths = event["bit_widths"]
        if "upload" in event:
            self.uploads[event["upload"]["stage"]] = event["upload"]["numbers"]
        if "note" in event:
            self.notes.append(event["note"])

    def newest(self) -> int:
        """The last round that was measured, -1 before the first."""
        return max(self.measures, default=-1)

    # What the run watches

    def values(self, upto: int | None = None) -> dict[int, float]:
        """What the setting `watch` names, by round up to `upto`: of the global model, or of the personal ones.

        Where clients hold examples back, it is what these come to, else what test examples do.
        """
        shown = {n: self.measures[n] for n in sorted(self.measures) if upto is None or n <= upto}
        found = {n: (measure.validation or measure).value(self.config.run.watch) for n, measure in shown.items()}
        return {n: v for n, v in found.items() if v is not None}

    def best(self, upto: int | None = None) -> tuple[int, float] | None:
        """The first round with the best value, and the value."""
        values, sign = self.values(upto), -1 if self.lower else 1
        best = max(values, key=lambda n: (sign * values[n], -n), default=None)
        return None if best is None else (best, values[best])

    @property
    def by_validation(self) -> bool:
        """Whether models are chosen by examples that clients hold back."""
        return any(measure.validation is not None for measure in self.measures.values())

    @property
    def lower(self) -> bool:
        """Whether less is better of what the setting `watch` names."""
        return any(measure.lower(self.config.run.watch) for measure in self.measures.values())

    def enough(self, number: int) -> str:
        """Why training should stop after a round, by the settings `target` and `patience`; empty where it should not."""
        run, values, best = self.config.run, self.values(number), self.best(number)
        if best is None:
            return ""
        if run.target and (best[1] <= run.target if self.lower else best[1] >= run.target):
            return f"round {best[0]} reached the target of {run.target:g}"
        since = sum(n > best[0] for n in values)
        return f"no better {run.watch} in {since} rounds" if run.patience and since >= run.patience else ""

    def close(self) -> None:
        """The run is complete."""
        self.complete = True

    def accuracies(self) -> dict[int, float]:
        """Global accuracy by round."""
        pooled = {n: m.accuracy for n, m in sorted(self.measures.items())}
        return {n: a for n, a in pooled.items() if a is not None}

    def headline(self) -> str:
        """The newest accuracies in a few words."""
        if not self.measures:
            return ""
        newest = self.measures[max(self.measures)]
        main = next(iter(newest.metrics.items()), None) if newest.accuracy is None else None
        own = newest.value("personal") if main is not None and "personal" in main[1] else None
        told = [] if main is None else [(main[0], main[1].get("global")), (f"personal {main[0]}", own)]
        parts = [("accuracy", newest.accuracy), ("personal", newest.pooled(newest.right_personal)), *told]
        return ", ".join(f"{name} {value:.3f}" for name, value in parts if value is not None)
