"""What comes next in a run and how long all of it takes, over its stages: told before each that is no plain round.

Stages of one name are taken to last as long as those of that name did so far. How long one lasts that did not come yet is not
known, and not guessed: the time that is left is then said to be at least that of the others.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, TypeVar

from fedwarm.core.forms import second_text
from fedwarm.core.progress import STAGES, tick
from fedwarm.core.stages import Stage

PLAIN, SHOWN = ("round", "evaluate"), 3
F = TypeVar("F", bound=Callable[..., Any])


def foreseeable(plan: F) -> F:
    """Marks a `plan` that may be looked through beforehand, as it changes nothing."""
    plan.__dict__["foreseeable"] = True
    return plan


def foreseen(strategy: Any, stages: Iterator[Stage]) -> Iterator[Stage]:
    """The stages of a run; before each that is to be done it is told what it is, what comes then, and how long all takes."""
    names = names_of(strategy)
    for index, stage in enumerate(stages):
        if index >= strategy.done and stage.name not in PLAIN and len(names) > 1:
            tick(
                STAGES,
                index + 1,
                max(len(names), index + 1),
                told(stage.name, names[index + 1 :], durations(strategy.record.stages)),
            )
        yield stage


def names_of(strategy: Any) -> list[str]:
    """The stages that a run has if it does not stop early; nothing where its plan cannot be looked through."""
    plan = type(strategy).plan
    if not getattr(plan, "foreseeable", plan.__module__ == "fedwarm.rounds.method"):
        return []
    names = [stage.name for stage in chain(strategy.before(), strategy.plan())]
    return names if {*names} - {*PLAIN} else []


def durations(stages: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The mean seconds of the stages of each name, by a record's list of them."""
    found: dict[str, list[float]] = {}
    for stage in stages:
        found.setdefault(str(stage["name"]), []).append(float(stage["seconds"]))
    return {name: statistics.fmean(seconds) for name, seconds in found.items()}


def told(name: str, rest: Sequence[str], known: Mapping[str, float]) -> str:
    """What is said before a stage, by the names of those after it and what stages of a name lasted so far."""
    ahead = list(dict.fromkeys(rest))
    text = f"{name}, then {', '.join(ahead[:SHOWN])}{' ..' if len(ahead) > SHOWN else ''}" if ahead else f"{name}, the last one"
    left = sum(known.get(each, 0.0) for each in (name, *rest))
    if not left:
        return text
    return f"{text}; {'about' if {name, *ahead} <= known.keys() else 'at least'} {second_text(left)} left for all"
