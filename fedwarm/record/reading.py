"""Reading a run folder as it lies: `results.json` of schema 1 and `ledger.jsonl`, checked and typed."""

from __future__ import annotations

import json
from pathlib import Path

from fedwarm.record.document import SCHEMA as SCHEMA
from fedwarm.record.document import parsed
from fedwarm.record.run import Best as Best
from fedwarm.record.run import Json as Json
from fedwarm.record.run import Round as Round
from fedwarm.record.run import Run as Run
from fedwarm.record.run import mean as mean
from fedwarm.record.run import worst_tenth as worst_tenth
from fedwarm.settings.fields import SettingError

BYTE_KEYS = ("payload_bytes_up", "wire_bytes_up", "payload_bytes_down", "wire_bytes_down")


def read_run(folder: Path, *, ledger: bool = True) -> Run:
    """A run folder's results and, unless it is not wanted, its ledger.

    Raises:
        SettingError: there is no `results.json`, it is unreadable, of another schema, or does not follow it.
    """
    path = folder / "results.json"
    if not path.is_file():
        raise SettingError(f"{folder} is not a run folder, as it has no results.json; give the folder that a run was written to")
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SettingError(f"{path} cannot be read as JSON: {error}; the file is damaged, run again or restore it") from error
    schema = raw.get("schema") if isinstance(raw, dict) else None
    if schema != SCHEMA:
        raise SettingError(
            f"{path} has schema {schema!r}; this fedwarm reads schema {SCHEMA}: read it with the version that wrote it"
        )
    try:
        return parsed(folder, raw, *(_ledger(folder / "ledger.jsonl") if ledger else ([], 0)))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise SettingError(f"{path} does not follow schema {SCHEMA}: {type(error).__name__}: {error}") from error


def _ledger(path: Path) -> tuple[list[Json], int]:
    """The ledger's entries and how many lines could not be read (a run that was cut off may leave half a line)."""
    entries: list[Json] = []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    for line in lines:
        try:
            entry = json.loads(line)
            entries.append({**entry, **{key: float(entry.get(key) or 0) for key in (*BYTE_KEYS, "seconds")}})
        except (ValueError, TypeError, AttributeError):
            continue
    return entries, len(lines) - len(entries)
