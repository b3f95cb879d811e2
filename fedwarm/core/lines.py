"""A file of JSON lines that only grows; a line is on the disk before whoever adds it goes on.

A process that is killed while it adds a line leaves part of one, which counts for nothing: nobody has gone on with it.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedwarm.core.files import PRIVATE, make_folder, settle, writing
from fedwarm.settings.fields import SettingError


def add_line(path: Path, entry: Mapping[str, Any]) -> None:
    """Append one entry, readable by the file's owner only; processes that do so at the same time wait for each other.

    Raises:
        DiskError: it cannot be written; the file holds what it held.
    """
    make_folder(path.parent, 0o700)
    line = json.dumps(entry).encode() + b"\n"
    with writing(path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, PRIVATE)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            whole = _whole(path.read_bytes())
            os.ftruncate(descriptor, whole)
            _write(descriptor, line, whole)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        settle(path.parent)


def _write(descriptor: int, line: bytes, whole: int) -> None:
    try:
        written = 0
        while written < len(line):
            written += os.write(descriptor, line[written:])
    except OSError:
        os.ftruncate(descriptor, whole)
        raise


def lines_of(path: Path) -> list[dict[str, Any]]:
    """The entries, in the order in which they were added; none where there is no file.

    Raises:
        SettingError: a line is damaged.
    """
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return []
    try:
        found = [json.loads(line) for line in raw[: _whole(raw)].splitlines()]
    except ValueError as error:
        raise SettingError(
            f"{path} is damaged: {error}, so that the privacy already spent is unknown and nothing more is sent; "
            "restore it from a backup, or start a new run"
        ) from error
    if not all(isinstance(entry, dict) for entry in found):
        raise SettingError(
            f"{path} is damaged: a line is not a JSON object, so that the privacy already spent is unknown and "
            "nothing more is sent; restore it from a backup, or start a new run"
        )
    return found


def _whole(raw: bytes) -> int:
    """Bytes up to the end of the last whole line."""
    return raw.rfind(b"\n") + 1
