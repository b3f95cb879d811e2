"""What a check finds: one line each, ok, a warning, or a fault with what to do about it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

OK, WARNING, FAULT, UNSEEN = "ok", "warning", "fault", "-"


class Finding(NamedTuple):
    """One line: what was looked at, how it is, and what is to be done where it is not well."""

    topic: str
    level: str
    text: str

    @property
    def line(self) -> str:
        return f"{self.level:<7}  {self.topic}: {self.text}"


def ok(topic: str, text: str) -> Finding:
    """It is as it should be."""
    return Finding(topic, OK, text)


def warning(topic: str, text: str) -> Finding:
    """A node can work so, for now."""
    return Finding(topic, WARNING, text)


def fault(topic: str, text: str) -> Finding:
    """A node cannot work so."""
    return Finding(topic, FAULT, text)


def unseen(why: str, *topics: str) -> Iterator[Finding]:
    """What was not looked at, as something else has to be mended first."""
    for topic in topics:
        yield Finding(topic, UNSEEN, f"not looked at, {why}")
