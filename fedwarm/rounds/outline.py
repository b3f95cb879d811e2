"""What comes next in a run and how long all of it takes, over its stages: told before each that is no plain round, and in it.

A stage of a name that was there lasts as long as those of that name did. What did not come yet a method may foresee (`Effort`);
its seconds are multiplied by how much longer than foreseen those took that are done, and the running one takes by its ticks. How
long one lasts of which nothing is known is not guessed: the time that is left is then said to be at least that of the others.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import chain
from typing import Any, TypeVar

from fedwarm.core.progress import STAGES, Clock, Tick, current, listening
from fedwarm.core.stages import Effort, Stage
from fedwarm.settings.fields import SettingError

PLAIN, SHOWN = ("round", "evaluate"), 3
EVERY_SECONDS, LEAST_SECONDS = 10.0, 2.0  # between two lines in a stage; of its ticks, before they tell how fast it is
F = TypeVar("F", bound=Callable[..., Any])
Efforts = Callable[..., Mapping[str, Effort]]


def foreseeable(efforts: Efforts | None = None) -> Callable[[F], F]:
    """Marks a `plan` that may be looked through beforehand, as it changes nothing.

    Args:
        efforts: called with the settings, (images, classes present) of each client, and the operations of the model's answer to
            one input; gives what is foreseen of the stages of a name.
    """

    def marked(plan: F) -> F:
        plan.__dict__["foreseeable"] = efforts or (lambda *_: {})
        return plan

    return marked


class Outlook:
    """Says what comes and how long all takes, while the stages of a run are gone through in its block.

    Args:
        strategy: the run's.
        now: seconds, by any zero.
    """

    def __init__(self, strategy: Any, now: Clock = time.monotonic) -> None:
        self.strategy, self.now, self.outer = strategy, now, current()
        self.names = [] if self.outer is None else names_of(strategy)
        self.efforts = efforts_of(strategy) if len(self.names) > 1 else {}
        self.index, self.stage, self.last, self.start = 0, Stage(0, ""), now(), now()
        self.shares: dict[str, float] = {}
        self.begun: tuple[float, float] | None = None
        self.ear = ExitStack()

    def __enter__(self) -> Outlook:
        if len(self.names) > 1:
            self.ear.enter_context(listening(self.hear, now=self.now))
        return self

    def __exit__(self, *raised: object) -> None:
        self.ear.close()

    def of(self, stages: Iterator[Stage]) -> Iterator[tuple[int, Stage]]:
        """The stages with their numbers; each that is to be done is told of."""
        for index, stage in enumerate(stages):
            if index >= self.strategy.done and len(self.names) > 1:
                self.index, self.stage, self.shares, self.begun, self.start = index, stage, {}, None, self.now()
                if stage.name not in PLAIN or self.now() - self.last >= EVERY_SECONDS:
                    self.say()
            yield index, stage

    def hear(self, event: Tick) -> None:
        """Pass on a tick; where it says how far the stage is, that may be told again."""
        assert self.outer is not None
        self.outer(event)
        if event.stage == self._effort(self.stage.name).ticks:
            self.shares[event.who] = event.step / event.of
            self.begun = self.begun or (self.now(), self._share())
            if self.now() - self.last >= EVERY_SECONDS:
                self.say()

    def say(self) -> None:
        """Tell it."""
        assert self.outer is not None
        self.last, rest = self.now(), self.names[self.index + 1 :]
        text = told(self.stage.name, rest, *self._left(rest))
        self.outer(Tick("server", STAGES, self.index + 1, max(len(self.names), self.index + 1), text))

    def _effort(self, name: str) -> Effort:
        return self.efforts.get(name, Effort(0.0, " "))

    def _share(self) -> float:
        return sum(self.shares.values()) / max(1, len(self.stage.clients))

    def _left(self, rest: Sequence[str]) -> tuple[float, bool]:
        """Seconds that are left as far as is known, and whether that is all of them."""
        lasted, whole = durations(self.strategy.record.stages), self._measured()
        spent, foreseen = (whole, self._effort(self.stage.name).seconds) if whole else (0.0, 0.0)
        for stage in self.strategy.record.stages:
            if own := self._effort(str(stage["name"])).seconds:
                spent, foreseen = spent + float(stage["seconds"]), foreseen + own
        factor = spent / foreseen if spent and foreseen else 1.0
        known = {name: effort.seconds * factor for name, effort in self.efforts.items()} | lasted
        passed = self._share() * whole if whole else self.now() - self.start
        here = max(0.0, (whole or known.get(self.stage.name, 0.0)) - passed)
        return here + sum(known.get(name, 0.0) for name in rest), {self.stage.name, *rest} <= known.keys()

    def _measured(self) -> float:
        """Seconds that the whole of the running stage takes, by its ticks; 0 where they do not tell."""
        since, share = self.begun or (self.now(), 0.0)
        if self.now() - since < LEAST_SECONDS or self._share() <= share:
            return 0.0
        return (self.now() - since) / (self._share() - share)


def names_of(strategy: Any) -> list[str]:
    """The stages that a run has if it does not stop early; nothing where its plan cannot be looked through."""
    plan = type(strategy).plan
    if not getattr(plan, "foreseeable", plan.__module__ == "fedwarm.rounds.method"):
        return []
    names = [stage.name for stage in chain(strategy.before(), strategy.plan())]
    return names if {*names} - {*PLAIN} else []


def efforts_of(strategy: Any) -> Mapping[str, Effort]:
    """What the plan foresees of the stages of a name; nothing where it says nothing, or who holds how much is hidden."""
    by = getattr(type(strategy).plan, "foreseeable", None)
    if by is None or strategy.hidden:
        return {}
    held = [(member.examples, len(member.present)) for member in strategy.fleet.members if member.known]
    try:
        found: Mapping[str, Effort] = by(strategy.config, held, operations_of(strategy))
    except (SettingError, RuntimeError, ValueError, TypeError):  # no line about time ends a run; what is wrong, others say
        return {}
    return found


def operations_of(strategy: Any) -> float:
    """Floating-point operations of the model's answer to one input."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    model = strategy.new_model().eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(strategy.fleet.form.empty(1).float())
    return float(counter.get_total_flops())


def durations(stages: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The mean seconds of the stages of each name, by a record's list of them."""
    found: dict[str, list[float]] = {}
    for stage in stages:
        found.setdefault(str(stage["name"]), []).append(float(stage["seconds"]))
    return {name: statistics.fmean(seconds) for name, seconds in found.items()}


def told(name: str, rest: Sequence[str], left: float, whole: bool) -> str:
    """What is said of a stage, by the names of those after it, the seconds that are left, and whether these are all."""
    ahead = list(dict.fromkeys(rest))
    text = f"{name}, then {', '.join(ahead[:SHOWN])}{' ..' if len(ahead) > SHOWN else ''}" if ahead else f"{name}, the last one"
    return f"{text}; {'about' if whole else 'at least'} {rough(left)} left for all" if left else text


def rough(seconds: float) -> str:
    """An estimate of seconds: `5 s`, `40 s`, `4 min`, `2 h 10 min`."""
    if seconds < 57.5:
        return f"{max(5, round(seconds / 5) * 5)} s"
    if seconds < 3570:
        return f"{round(seconds / 60)} min"
    hours, tens = divmod(round(seconds / 600), 6)
    return f"{hours} h {10 * tens:02d} min"
