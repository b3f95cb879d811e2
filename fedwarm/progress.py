"""Where long work says how far it is: one function to call, one place that listens.

A worker calls `tick("lora", 12, 300, "client 2")`; whoever runs it (a command line, a pool, nobody) decides what becomes of it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

MIN_INTERVAL_SECONDS, LOG_INTERVAL_SECONDS = 0.2, 10.0


@dataclass(frozen=True)
class Tick:
    """One sign of life: `step` of `of` steps of `stage` are done by `who` (a client, or "server")."""

    who: str
    stage: str
    step: int
    of: int
    text: str = ""


Listener = Callable[[Tick], None]
_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)
_who: ContextVar[str] = ContextVar("who", default="server")
_last: dict[tuple[str, str], float] = {}


def current() -> Listener | None:
    """The listener of this moment, or None."""
    return _listener.get()


def tick(stage: str, step: int, of: int, text: str = "") -> None:
    """Tell the listener, if there is one, at most five times a second and always at the first and last step."""
    listener = _listener.get()
    if listener is None:
        return
    key, now = (_who.get(), stage), time.monotonic()
    if 1 < step < of and now - _last.get(key, -1.0) < MIN_INTERVAL_SECONDS:
        return
    _last[key] = now
    listener(Tick(_who.get(), stage, step, of, text))


def logger(event: Tick) -> None:
    """A listener that writes a line to the log every ten seconds for each stage, and at its end."""
    key, now = ("log", f"{event.who}/{event.stage}"), time.monotonic()
    begun = _last.setdefault(("begun", key[1]), now)
    if event.of < 3 or (event.step < event.of and now - _last.get(key, begun) < LOG_INTERVAL_SECONDS):
        return
    _last[key] = now
    left = (now - begun) / event.step * (event.of - event.step)
    logging.getLogger("flwr").info("%s: %s %d/%d, %.0f s left %s", event.who, event.stage, event.step, event.of, left, event.text)


@contextmanager
def listening(listener: Listener | None, who: str | None = None, *, only_if_nobody_listens: bool = False) -> Iterator[None]:
    """Send the ticks of the block to `listener`; `who` names the worker in them."""
    present = _listener.get()
    chosen = present if only_if_nobody_listens and present is not None else listener
    tokens = (_listener.set(chosen), _who.set(who if who is not None else _who.get()))
    try:
        yield
    finally:
        _listener.reset(tokens[0])
        _who.reset(tokens[1])
