"""An audit log: JSON lines that are only added, each with the hash of the one before, so that a line changed later shows.

Whoever can write the file can write all of it anew; a head (the last line's hash) that is noted elsewhere shows that, too, and
a log that was cut short.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from fedwarm.core.files import PRIVATE, make_folder, settle, writing

FILE, START = "audit.jsonl", "0" * 64
TAIL_BYTES = 2**16
MARK, END = b', "hash": "', b'"}\n'
"""What stands after the part of a line that is hashed (SHA-256), byte by byte."""


class Verdict(NamedTuple):
    """How many lines are sound, the hash of the last of them, and what is wrong; empty where nothing is."""

    lines: int
    head: str
    problem: str


def add(path: Path, *events: Mapping[str, Any], now: datetime | None = None) -> None:
    """Append events, on the disk when this returns; processes that do so at the same time wait for each other.

    Raises:
        DiskError: they cannot be written.
    """
    make_folder(path.parent, 0o700)
    moment = (now or datetime.now(UTC)).isoformat(timespec="milliseconds")
    with writing(path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, PRIVATE)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            whole, head = _end(descriptor)
            os.ftruncate(descriptor, whole)
            raw = b"".join(_lines(({"time": moment, **event} for event in events), head))
            while raw:
                raw = raw[os.write(descriptor, raw) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        settle(path.parent)


def _lines(events: Iterable[Mapping[str, Any]], head: str) -> Iterable[bytes]:
    for event in events:
        body = json.dumps({**event, "previous": head}, ensure_ascii=False).encode("utf-8", "replace")[:-1]
        head = hashlib.sha256(body).hexdigest()
        yield body + MARK + head.encode() + END


def _end(descriptor: int) -> tuple[int, str]:
    """The length of the whole lines, and the hash of the last; what a killed process left of a line does not count."""
    size = os.fstat(descriptor).st_size
    begin = max(0, size - TAIL_BYTES)
    raw = os.pread(descriptor, size - begin, begin)
    whole = raw.rfind(b"\n") + 1
    last = raw[:whole].rstrip(b"\n").rpartition(b"\n")[2]
    return begin + whole, last.rpartition(MARK)[2][:-2].decode("utf-8", "replace") if last else START


def verify(path: Path, head: str = "") -> Verdict:
    """Go through a log.

    Args:
        path: the file.
        head: the hash of a line that must be in it, as it was noted before; empty: none.

    Raises:
        OSError: it cannot be read.
    """
    before, count, seen = START, 0, not head
    with path.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            if problem := _problem(line, before):
                return Verdict(count, before, f"line {number} {problem}")
            before, count = line.rpartition(MARK)[2].removesuffix(END).decode(), number
            seen |= before == head
    return Verdict(count, before, "" if seen else f"no line has the hash {head}: the log was cut short, or written anew")


def _problem(line: bytes, before: str) -> str:
    body, mark, rest = line.rpartition(MARK)
    try:
        previous = json.loads(body + b"}")["previous"]
    except (ValueError, KeyError, TypeError):
        return "is no line of an audit log"
    if not mark or rest != hashlib.sha256(body).hexdigest().encode() + END:
        return "was changed after it was written"
    return "" if previous == before else "does not follow the line before it: lines were taken out, put in or moved"
