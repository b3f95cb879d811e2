"""The last sign of life of each site of a run that goes on, in a file of its folder."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from fedwarm.core.files import DiskError, write_text

FILE = "signs.json"


def write_signs(folder: Path, seen: Iterable[tuple[str, str, float | None]], now: datetime | None = None) -> None:
    """Write who was seen when; nothing where no run has begun in the folder, or it cannot be written to.

    Args:
        folder: the run's.
        seen: name, state, and seconds since the last sign of life (None: never) of each site.
        now: the moment that the seconds count back from.
    """
    moment = now or datetime.now(UTC)
    if not (folder / "results.json").is_file():  # or a run that could not begin would leave a folder that none can have again
        return
    sites = {name: {"state": state, "seen": _told(moment, ago)} for name, state, ago in sorted(seen)}
    try:
        write_text(folder / FILE, json.dumps({"at": _told(moment, 0.0), "sites": sites}, indent=1) + "\n")
    except DiskError:
        return


def _told(moment: datetime, ago: float | None) -> str:
    return "never" if ago is None else (moment - timedelta(seconds=ago)).strftime("%Y-%m-%d %H:%M:%S UTC")
