"""Metrics: how good a model is on test examples, by names in the setting `metrics`; each is made of sums, so federations add up.

A client never sends its predictions. It sends sums over its test examples (counts by class, squared errors, counts by score), and
the server adds them up: a metric is then exactly what it would be on all clients' test examples together, and what each client's
own sums come to is its value there. Metrics of one task share the sums that they are made of.

A component is a `Metric`. Any metric of torchmetrics goes by `torchmetrics:Name` (or `torchmetrics.classification:Name`), or by a
function that makes one: its states are added up where all of them are sums, else each client's value counts by its examples (see
`foreign`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fedwarm.metrics._foreign import foreign
from fedwarm.settings.config import PERSONAL, General
from fedwarm.settings.fields import SettingError
from fedwarm.settings.kinds import METRICS, TASKS

ANY = ""  # of a metric's sums: whatever the targets are
SUMMED, WEIGHED = "sums over all test examples", "mean over clients, weighed by test examples"
COUNTED = "accuracy"  # what a task has that counts right answers
Numbers = NDArray[np.float64]


class Adds(Protocol):
    """Adds up over batches."""

    def add(self, outputs: Tensor, targets: Tensor) -> None:
        """Take a batch: what the task's model gave, and its targets, both on the CPU."""

    def total(self) -> Tensor:
        """All so far in one row of numbers."""


@dataclass(frozen=True)
class Sum:
    """Numbers that add up over examples.

    Attributes:
        name: that of the message's field; metrics with the same one share it.
        size: how many numbers they are, by the width of the model's head.
        begin: makes what adds them up, of a task and that width.
        whole: whether they are counts, which are sent as whole numbers.
    """

    name: str
    size: Callable[[int], int]
    begin: Callable[[Any, int], Adds]
    whole: bool = True


@dataclass(frozen=True)
class Metric:
    """A metric, declared.

    Attributes:
        title: what pages call it.
        summary: one line for lists.
        sums: what it is made of, by what targets are (`tasks.Task.targets`); ANY: those of every other task.
        value: the metric of a total and the width, None where it is undefined; without it there is a table alone.
        table: what pages draw of a total and the width, as nested lists.
        lower: whether less is better.
        ranks: whether one of two values is the better one.
        share: whether it lies between 0 and 1, and is shown in percent.
        pooled: how that of all clients together is made.
        main: the targets whose main metric it is, which says what is better where nobody says more.
        usual: the targets that are measured by it where the setting `metrics` is empty.
        check: of a form of targets and a width: raises SettingError where it cannot measure such models.
    """

    title: str
    summary: str
    sums: Mapping[str, Sum]
    value: Callable[[Numbers, int], float | None] | None = None
    table: Callable[[Numbers, int], list[Any]] | None = None
    lower: bool = False
    ranks: bool = True
    share: bool = False
    pooled: str = SUMMED
    main: tuple[str, ...] = ()
    usual: tuple[str, ...] = ()
    check: Callable[[str, int], Any] | None = None

    @property
    def better(self) -> str:
        """Which of two values is the better one, in a word; empty where neither is."""
        return "" if not self.ranks else "lower" if self.lower else "higher"

    def sum_of(self, targets: str) -> Sum | None:
        """What it is made of for such targets; None where it does not know them."""
        return self.sums.get(targets, self.sums.get(ANY))


def metric(name: str) -> Metric:
    """A metric by its name, or by the place of one of torchmetrics'.

    Raises:
        SettingError: there is none.
    """
    found = METRICS.load(name)
    return found if isinstance(found, Metric) else foreign(found, name, Metric, Sum, WEIGHED)


def metrics_of(run: General) -> dict[str, Metric]:
    """The run's metrics beside the accuracy that is counted in any case: the main one, those named, and the one watched.

    Raises:
        SettingError: one of them is no metric of the run's task, or a table is watched.
    """
    task = TASKS.load(run.task)
    named = [name.strip() for name in run.metrics.split(",") if name.strip()]
    watched = [] if run.watch in PERSONAL else [run.watch]
    asked = [("metrics", name) for name in named] + [("watch", name) for name in watched]
    if task.counted and all(name == COUNTED for _, name in asked):
        return {}
    known = metrics_for(task)
    for key, name in asked:
        if not (METRICS.takes(name) and covers(METRICS.canonical(name), task)):
            more = PERSONAL if key == "watch" else ()
            raise SettingError(f"{key} = {name!r} is no metric of task {run.task!r}; it has {', '.join([*known, *more])}")
    usual = (
        [] if named else [name for name in known if not (task.counted and name == COUNTED) and task.targets in metric(name).usual]
    )
    names = dict.fromkeys(METRICS.canonical(name) for name in (main_of(task), *named, *usual, *watched))
    found = {name: metric(name) for name in names if not (task.counted and name == COUNTED)}
    for name in map(METRICS.canonical, watched):
        if name in found and found[name].value is None:
            numbers = [each for each in known if each == COUNTED or metric(each).value is not None]
            raise SettingError(f"watch = {name!r} is a table, not a number; choose one of {', '.join([*numbers, *PERSONAL])}")
        if name in found and not found[name].ranks:
            raise SettingError(
                f"watch = {name!r} does not say whether more or less of it is better; name it in metrics and watch another, or "
                "give a subclass that says higher_is_better"
            )
    return found


def main_of(task: Any) -> str:
    """What says which of two models of a task (a class of `tasks.Task` or one) is better."""
    if task.counted:
        return COUNTED
    return next((name for name in METRICS if task.targets in metric(name).main), "loss")


def metrics_for(task: Any) -> list[str]:
    """The names of the metrics that a task has, its main one first."""
    counted = [COUNTED] if task.counted else []
    return list(dict.fromkeys([*counted, main_of(task), *(name for name in METRICS if covers(name, task))]))


def covers(name: str, task: Any) -> bool:
    """Whether a task has the metric of a canonical name."""
    if task.counted and name == COUNTED:
        return True
    return bool(task.answers) and metric(name).sum_of(task.targets) is not None
