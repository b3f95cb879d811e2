"""What clients keep on this machine between rounds, by run: listed, or removed."""

from __future__ import annotations

import re
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from fedwarm.core.forms import age, byte_text
from fedwarm.core.store import ALL, KEY
from fedwarm.core.terminal import put, show
from fedwarm.settings.fields import SettingError, near


@dataclass(frozen=True)
class State:
    """What the clients of one run keep on this machine."""

    key: str
    partitions: int
    files: int
    bytes: int
    age_seconds: float


def states(root: Path) -> list[State]:
    """The states below a root folder, the one that was written to last at the end; other folders are not counted among them."""
    found = []
    for place in sorted(root.iterdir()) if root.is_dir() else []:
        files = _files(place)
        if files is None:
            continue
        kept = [path for path in files if path.suffix in (".safetensors", ".jsonl")]
        stats = [path.stat() for path in files]
        newest = max((stat.st_mtime for stat in stats), default=place.stat().st_mtime)
        total = sum(stat.st_size for stat in stats)
        partitions = {path.parent.name for path in kept} - {ALL}
        found.append(State(place.name, len(partitions), len(kept), total, max(0.0, time.time() - newest)))
    return sorted(found, key=lambda state: -state.age_seconds)


def _files(place: Path) -> list[Path] | None:
    """The files of one run's states; None where the folder holds anything else, which is none of ours to remove."""
    if place.is_symlink() or not place.is_dir() or not KEY.fullmatch(place.name):
        return None
    inside = [path for path in place.rglob("*") if not path.is_dir() or path.is_symlink()]
    ours = (OURS.fullmatch(path.relative_to(place).as_posix()) for path in inside)
    return inside if all(ours) else None


OURS = re.compile(
    rf"speed\.(json|lock)|(\d+|{ALL}|pool)/(\..+|\d+\.lock|.+\.jsonl|.+\.\d+\.(lasting\.)?safetensors|hollowed-[^/]*/.+)"
)
"""States and accounts of a client or of all; a shelf of drawn images; tensors of hollowed tuning, kept or left behind."""


def list_states(root: Path) -> None:
    """Print one row for each run whose clients keep something below `root`."""
    found = states(root)
    if not found:
        put(f"clients keep nothing below {root}")
        return
    rows = [(s.key, str(s.partitions), str(s.files), byte_text(s.bytes), f"{age(s.age_seconds)} ago") for s in found]
    put(f"below {root}:")
    show(("run key", "partitions", "files", "size", "last written"), rows)
    put(
        f"{byte_text(sum(state.bytes for state in found))} in all; `fedwarm state --remove KEY` removes what a run's clients keep"
    )


def remove_state(root: Path, key: str) -> None:
    """Remove all that the clients of one run keep below `root`.

    Raises:
        SettingError: no run of exactly that key keeps anything there.
    """
    found = {state.key: state for state in states(root)}
    if key not in found:
        raise SettingError(f"no run {key!r} keeps anything below {root}{near(key, list(found))}; give the whole key")
    shutil.rmtree(root / key)
    count = found[key].files
    put(f"removed {count} file{'' if count == 1 else 's'}, {byte_text(found[key].bytes)}, of run {key}")
