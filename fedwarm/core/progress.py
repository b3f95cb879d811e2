"""Where long work says how far it is: one function to call, one place that listens.

A worker calls `tick("lora", 12, 300, "client 2")`; whoever runs it (a command line, a pool, nobody) decides what becomes of it.
"""

from __future__ import annotations

import logging
import math
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

MIN_INTERVAL_SECONDS, LOG_INTERVAL_SECONDS = 0.2, 10.0
LOG_SECONDS_VARIABLE, ROUNDS, STAGES = "FEDWARM_LOG_SECONDS", "rounds", "stages"
_LINE = re.compile(r"(server|client \d+): (\S.*?) (\d+)/(\d+)(?:, \d+ s left)?(?: (.*))?$")


@dataclass(frozen=True)
class Tick:
    """One sign of life: `step` of `of` steps of `stage` are done by `who` (a client, or "server")."""

    who: str
    stage: str
    step: int
    of: int
    text: str = ""


Listener = Callable[[Tick], None]
Clock = Callable[[], float]


class _Ear:
    """Passes on to a listener at most five ticks a second of a stage, always its first and last step, and all of `STAGES`."""

    def __init__(self, listener: Listener, now: Clock) -> None:
        self.listener, self.now = listener, now
        self._last: dict[tuple[str, str], float] = {}

    def hear(self, event: Tick) -> None:
        key, now = (event.who, event.stage), self.now()
        always = event.stage == STAGES or not 1 < event.step < event.of
        if always or now - self._last.get(key, -math.inf) >= MIN_INTERVAL_SECONDS:
            self._last[key] = now
            self.listener(event)


_ear: ContextVar[_Ear | None] = ContextVar("ear", default=None)
_who: ContextVar[str] = ContextVar("who", default="server")


def current() -> Listener | None:
    """The listener of this moment, or None."""
    ear = _ear.get()
    return ear.listener if ear is not None else None


def tick(stage: str, step: int, of: int, text: str = "") -> None:
    """Tell the listener, if there is one, at most five times a second; always at the first and last step, and of `STAGES`."""
    ear = _ear.get()
    if ear is not None:
        ear.hear(Tick(_who.get(), stage, step, of, text))


class Pace:
    """Decides when a line about a stage is due, and says how many seconds the rest will take."""

    def __init__(self, interval_seconds: float, now: Clock = time.monotonic) -> None:
        self.interval_seconds, self.now = interval_seconds, now
        self._begun: dict[tuple[str, str], tuple[float, int]] = {}
        self._seen: dict[tuple[str, str], tuple[float, int]] = {}

    def line(self, event: Tick) -> str | None:
        """A line at the last step and every few seconds before; None when none is due. A step that goes back begins anew."""
        key, now = (event.who, event.stage), self.now()
        told, last = self._seen.get(key, (now, -1))
        if event.step <= last or key not in self._begun:
            self._begun[key] = (now, event.step)
            told = now
        due = event.step >= event.of or event.stage == STAGES or now - told >= self.interval_seconds
        self._seen[key] = (now if due else told, event.step)
        if not due:
            return None
        if event.stage == STAGES:  # which last as long as they last; the text says what is known of that
            return f"{event.who}: {event.stage} {event.step}/{event.of} {event.text}"
        start, step = self._begun[key]
        left = (now - start) / (event.step - step) * (event.of - event.step) if event.step > step else 0.0
        rest = f", {left:.0f} s left" if left else ""
        return f"{event.who}: {event.stage} {event.step}/{event.of}{rest}{' ' + event.text if event.text else ''}"


def heard(line: str) -> Tick | None:
    """The tick that a line of `Pace.line` tells of, wherever in a line of a log it stands; None where there is none."""
    found = _LINE.search(line)
    return Tick(found[1], found[2], int(found[3]), int(found[4]), found[5] or "") if found else None


class Log:
    """A listener that writes lines to Flower's log, for engines without a display; each round of a run has its line.

    FEDWARM_LOG_SECONDS in the environment is the time between two lines about other work; where it is set there is a line about
    short work too.
    """

    def __init__(self, now: Clock = time.monotonic) -> None:
        self._work, self._rounds = Pace(LOG_INTERVAL_SECONDS, now), Pace(0.0, now)

    def __call__(self, event: Tick) -> None:
        asked = os.environ.get(LOG_SECONDS_VARIABLE)
        if event.stage in (ROUNDS, STAGES):
            line = self._rounds.line(event)
        else:
            self._work.interval_seconds = float(asked) if asked else LOG_INTERVAL_SECONDS
            line = self._work.line(event) if event.of > 2 or asked else None
        if line is not None:
            logging.getLogger("flwr").info(line)


log = Log()


@contextmanager
def listening(
    listener: Listener | None, who: str | None = None, *, only_if_nobody_listens: bool = False, now: Clock = time.monotonic
) -> Iterator[None]:
    """Send the ticks of the block to `listener`; `who` names the worker in them."""
    ear = _ear.get()
    if not only_if_nobody_listens or ear is None:
        ear = _Ear(listener, now) if listener is not None else None
    tokens = (_ear.set(ear), _who.set(who if who is not None else _who.get()))
    try:
        yield
    finally:
        _ear.reset(tokens[0])
        _who.reset(tokens[1])
