"""What Flower and fedwarm log, in the style of everything else that a run says: plain lines, marked where something is wrong.

Flower's logger colours its levels, in files and pipes, too, and writes past a display that is being redrawn; ours has no handler
of its own. While a run is on, both speak by `fedwarm.core.terminal.say`.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from fedwarm.core.terminal import say
from fedwarm.core.text import uncoloured

NAMES = ("flwr", "fedwarm")
FILE_VARIABLE = "FEDWARM_LOG_FILE"
_where: dict[str, str | int] = {}
_LEVEL = re.compile(r"(DEBUG|INFO|WARNING|ERROR|CRITICAL)\s*(?:\d[\d\-]* [\d:,]+)?\s*:\s{0,9}")


class Plain(logging.Handler):
    """Prints a record as one plain line, or as many as it has."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print; a record that cannot be formatted is told as logging does it."""
        try:
            say(styled(record.levelname, self.format(record)))
        except Exception:
            self.handleError(record)


def styled(level: str, message: str) -> str:
    """The message without colours, behind its level where that is more than information."""
    mark = "" if level in ("DEBUG", "INFO") else f"{level.lower()}: "
    return mark + uncoloured(message).expandtabs(4)


def restyled(line: str) -> str:
    """A line of Flower's log, as its command line prints it, in our style."""
    line = uncoloured(line)
    found = _LEVEL.match(line)
    return styled(found[1], line[found.end() :]) if found else line


@contextmanager
def one_style() -> Iterator[None]:
    """Within, Flower's and fedwarm's loggers print plain lines; then they are as before."""
    before = settle()
    try:
        yield
    finally:
        for name, handlers in before.items():
            logging.getLogger(name).handlers[:] = handlers


def settle() -> dict[str, list[logging.Handler]]:
    """Let both loggers print plain lines in this process, and give the handlers that they had; those that write elsewhere stay.

    Flower gives its logger a handler when it is first imported; that must be before.
    """
    before = {}
    for name in NAMES:
        logger = logging.getLogger(name)
        before[name] = list(logger.handlers)
        spoken = [handler for handler in logger.handlers if type(handler) is not Plain and _speaks(handler)]
        plain = Plain(min((handler.level for handler in spoken), default=logging.INFO))
        logger.handlers[:] = [handler for handler in logger.handlers if handler not in spoken and type(handler) is not Plain]
        logger.addHandler(plain)
    return before


def _speaks(handler: logging.Handler) -> bool:
    """Whether a handler prints to this process's standard output or error; Flower's own does, and can colour."""
    streams = (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__)
    shown = isinstance(handler, logging.StreamHandler) and any(handler.stream is stream for stream in streams)
    return shown or hasattr(handler, "colored")


def undisplayed() -> None:
    """In a process that was forked below a display: print past it, as it belongs to the parent."""
    sys.stdout = getattr(sys.stdout, "rich_proxied_file", sys.stdout)
    sys.stderr = getattr(sys.stderr, "rich_proxied_file", sys.stderr)


class Lines(logging.Handler):
    """Writes a record as one JSON object a line: time, level, run, round and node as far as they are known, and the text."""

    def __init__(self, path: Path) -> None:
        super().__init__(logging.INFO)
        self.path = path

    def emit(self, record: logging.LogRecord) -> None:
        """Append; a record that cannot be written is told as logging does it."""
        try:
            when = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
            told = {"time": when, "level": record.levelname.lower(), **_where, "text": uncoloured(self.format(record))}
            with self.path.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(told, ensure_ascii=False) + "\n")
        except Exception:
            self.handleError(record)


def at(**facts: str | int) -> None:
    """From here on lines of this process say so, where they go to a file (see `structured`)."""
    if any(isinstance(handler, Lines) for handler in logging.getLogger(NAMES[0]).handlers):
        _where.update(facts)


@contextmanager
def structured(**facts: str | int) -> Iterator[None]:
    """Within, what both loggers say goes to the file that `FEDWARM_LOG_FILE` names, too, with these facts on each line."""
    place, before = os.environ.get(FILE_VARIABLE, ""), dict(_where)
    if not place:
        yield
        return
    with suppress(OSError):
        Path(place).parent.mkdir(parents=True, exist_ok=True)
    handler = Lines(Path(place))
    for name in NAMES:
        logging.getLogger(name).addHandler(handler)
    at(**facts)
    try:
        yield
    finally:
        for name in NAMES:
            logging.getLogger(name).removeHandler(handler)
        _where.clear()
        _where.update(before)
