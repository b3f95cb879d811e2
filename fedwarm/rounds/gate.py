"""The gate: all that a client sends in a private run passes here, and what the account does not cover never leaves.

An account covers what it prices. Anything beside that may leave for a reason alone, and whoever sends it declares the reason
(`tells`); what may be left out of a message is declared, too (`withholds`). A name that is in neither is an error, before
anything leaves. What settings would have clients tell is refused before the run (`refuse_uncovered`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from fedwarm.coding.packing import CodeError
from fedwarm.core.files import DiskError
from fedwarm.core.payload import Fact, Payload, PayloadError
from fedwarm.data.settings import CLASSES, LABELS, Data
from fedwarm.data.testing import CENTRAL
from fedwarm.metrics import metrics_of
from fedwarm.privacy.levels import ARRAYS, Level, Reasons
from fedwarm.relevance import Run
from fedwarm.settings.config import Config, once
from fedwarm.settings.fields import SettingError
from fedwarm.settings.kinds import PRIVACY, TASKS

FEW, CLASSED = 5, 10  # numbers of a metric of ten classes that may leave
PER = 100  # right answers are told per hundred where nobody may know how many images a client has
RIGHT, TESTS = "correct-", "num-test"
SUMS, HELD, VALIDATION = "sums-", "num-validation", "validation-"
PUBLIC_ERRORS = (SettingError, PayloadError, CodeError, DiskError, NotImplementedError)
ENVELOPE: Reasons = {
    "partition": "who answers is in the clear",
    "partitions": "how many clients there are is in the clear",
    "site": "who answers is in the clear",
    "fedwarm": "the version of a node's program is in the clear",
    "flwr": "so is the version of Flower",
    "packs": "so is what it joins on the line",
    "ticket": "names the message that is answered",
    "image-size": "a setting of the run",
    "shape": "what one input looks like is in the clear, as the model tells it",
    "dtype": "what one input looks like is in the clear, as the model tells it",
    "vocabulary": "what one input looks like is in the clear, as the model tells it",
    "columns": "the names of a table's columns are in the clear",
    "answers": "whether targets are classes follows from the task",
    "classes": "classes of the run are public",
    "present": "all classes of the run, whichever the client has",
    TESTS: "test images are outside the account; per hundred where numbers of images are hidden",
    HELD: "examples held back are outside the account; per hundred where numbers of examples are hidden",
    "correct-global": "the model was released, and nothing trains on test images, which are outside the account",
}
SIZES: Reasons = {"num-examples": "numbers of images are public at the level of an example"}
PLAIN: Reasons = dict.fromkeys((ARRAYS, "train-loss", "correct-personal"), "the account is of other facts; models leave without")


class Sender(Protocol):
    """Who sends: a client, one of its halves, or a codec."""

    def tells(self, level: Level) -> Reasons:
        """What may leave in a private run, by name and with the reason; arrays are called `levels.ARRAYS`."""

    def withholds(self, level: Level) -> frozenset[str]:
        """What is left out there."""


class Described:
    """What a description has beside all other answers."""

    def tells(self, level: Level) -> Reasons:
        return {"num-examples": "one, of every client, where numbers of images are hidden"}

    def withholds(self, level: Level) -> frozenset[str]:
        return frozenset()


DESCRIBED = Described()


class GateError(SettingError):
    """Something would leave that no account covers and nobody gave a reason for."""


class WithheldError(RuntimeError):
    """A client failed in a private run; why is written at the client."""


@dataclass(frozen=True)
class Gate:
    """What may leave one client of a run.

    Attributes:
        level: what the account covers.
        tells: the names that may leave, with reasons.
        withholds: those that are left out.
    """

    level: Level
    tells: Reasons
    withholds: frozenset[str]

    @classmethod
    def of(cls, level: Level, *senders: Sender) -> Gate:
        """That of an answer which these make together; outside private runs nobody is asked."""
        if level == Level.OPEN:
            return cls(level, {}, frozenset())
        told = dict(ENVELOPE if level >= Level.EXAMPLE else {**ENVELOPE, **PLAIN})
        told |= SIZES if level < Level.CLIENT else {}
        for sender in senders:
            told |= sender.tells(level)
        return cls(level, told, frozenset(name for sender in senders for name in sender.withholds(level)))

    def passed(self, payload: Payload) -> Payload:
        """The message as it may leave; outside private runs, as it is.

        Raises:
            GateError: it holds what nobody declared.
        """
        if self.level == Level.OPEN:
            return payload
        names = {*payload.metrics, *payload.facts, *([ARRAYS] if payload.arrays else [])}
        if unknown := sorted(names - self.tells.keys() - self.withholds):
            raise GateError(
                f"{', '.join(map(repr, unknown))} would leave a client, and the account of this private run does not cover it; "
                "whoever sends it must declare it in `tells`, with the reason, or in `withholds`"
            )
        metrics = {name: value for name, value in payload.metrics.items() if name in self.tells}
        facts = {name: fact for name, fact in payload.facts.items() if name in self.tells}
        if self.level == Level.CLIENT:
            facts |= sums_per_hundred(facts, metrics)
            metrics |= per_hundred(metrics)
        arrays = payload.arrays if ARRAYS in self.tells else {}
        return Payload(payload.kind if arrays else "none", arrays, metrics, facts)


def per_hundred(metrics: dict[str, int | float]) -> dict[str, int | float]:
    """Right answers out of 100 for those out of a client's own number of examples; nothing where there are none."""
    told: dict[str, int | float] = {}
    for count, before in ((TESTS, RIGHT), (HELD, RIGHT + VALIDATION)):
        if examples := metrics.get(count, 0):
            right = {name: value for name, value in metrics.items() if _of(name, before)}
            told |= {count: PER, **{name: round(PER * value / examples) for name, value in right.items()}}
    return told


def sums_per_hundred(facts: Mapping[str, Fact], metrics: Mapping[str, int | float]) -> dict[str, Fact]:
    """Sums as of 100 examples for those of a client's own number, rounded, as a share would tell the number.

    Counts are whole then, others have three digits. How many numbers there are is bounded, as many together tell it again
    (see `_tables`).
    """
    told: dict[str, Fact] = {}
    for count, before in ((TESTS, SUMS), (HELD, SUMS + VALIDATION)):
        for name, values in facts.items():
            if _of(name, before) and isinstance(values, list) and metrics.get(count, 0):
                factor, numbers = PER / metrics[count], [float(value) for value in values]
                whole = all(value.is_integer() for value in numbers)
                told[name] = [float(round(value * factor)) if whole else float(f"{value * factor:.3g}") for value in numbers]
    return told


def _of(name: str, before: str) -> bool:
    """Whether a name is of what is counted on test examples, or on those held back, by what it begins with."""
    return name.startswith(before) and (VALIDATION in before or not name.partition("-")[2].startswith(VALIDATION))


def level_of(run: Run) -> Level:
    """What a run's account covers."""
    if run.hides:
        return Level.CLIENT
    if not run.accounted:
        return Level.OPEN
    return Level.EXAMPLE if run["privacy"] != PRIVACY.first else Level.FACTS


def uncovered(config: Config) -> Iterator[str]:
    """What components would have clients tell that the run's account does not cover, each with what to do."""
    run = Run.of(config)
    level = level_of(run)
    for component in run.chosen if level != Level.OPEN else ():
        says: Any = getattr(component, "uncovered", None)
        if says is not None and (text := says(run, level)):
            yield text
    if level == Level.CLIENT:
        yield from _tables(config)


def _tables(config: Config) -> Iterator[str]:
    """Metrics that are made of many counts of a client's test examples, which together tell how many those are."""
    data, targets = config.of(Data), TASKS.load(config.run.task).targets
    if data.test == CENTRAL and not data.validation_fraction:
        return
    for name, metric in metrics_of(config.run).items() if targets in (CLASSES, LABELS) else ():
        sums = metric.sum_of(targets)
        if sums is not None and sums.size(CLASSED) > FEW:
            yield (
                f"metric {name!r} is made of counts of each client's test examples, which together tell how many it has, and "
                "this run hides that; take accuracy or loss, or data.test = 'central'"
            )


def refuse_fitted(fitted: bool, level: Level) -> None:
    """Refuse inputs that were scaled by statistics of private examples, of which every input would tell.

    Raises:
        SettingError: they were.
    """
    if fitted and level != Level.OPEN:
        raise SettingError(
            "columns are standardised by the training examples, which no epsilon covers; set data.standardise='none', or to a "
            "CSV file of public statistics (column, mean, std)"
        )


@once
def refuse_uncovered(config: Config) -> None:
    """Refuse before the run what its account does not cover.

    Raises:
        SettingError: the first of `uncovered`.
    """
    for text in uncovered(config):
        raise SettingError(text)


def public(error: Exception, level: Level) -> bool:
    """Whether a client may tell of an error in its own words: those of settings, messages and disks do not tell of images."""
    return level == Level.OPEN or isinstance(error, PUBLIC_ERRORS)
