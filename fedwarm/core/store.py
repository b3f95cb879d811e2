"""What a client keeps for later rounds: named tensors on its own disk, one folder per run and partition, never sent.

A state has a step, usually the round that made it. The newest two are kept: so a round that is asked for again, after a lost
reply or a resumed run, begins at the state from before it and ends in the same one.

What a guarantee of privacy rests on lasts: `book` adds to an account that only grows, and `keep` writes what was sent, once. To
make room for other runs, accounts and small messages are not removed (see `make_room`).
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import Tensor

from fedwarm.core.files import PRIVATE, make_folder, replacing, settle, writing
from fedwarm.core.lines import add_line, lines_of
from fedwarm.settings.fields import SettingError

KEPT_STEPS = 2
ALL = "all"
LASTING_STEPS, LASTING_BYTES = 16, 2**16
LASTING = re.compile(r"[^.].*\.(jsonl|lasting\.safetensors)")
MIB = 2**20
MEASURED_EVERY_SECONDS = 5.0
_room: dict[tuple[Path, int], tuple[int, float]] = {}  # bytes free when last measured, less what this process wrote since
KEY = re.compile(r"[0-9a-f]{1,32}")


def cache_home() -> Path:
    """The user's cache folder for client state.

    Raises:
        SettingError: the user has no home folder, as in a container whose user is not in its passwd.
    """
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:
        raise SettingError(
            f"user {os.getuid()} has no home folder to keep clients' states in; set HOME or XDG_CACHE_HOME to a folder that can "
            "be written to, or the setting client-folder"
        ) from None
    return cache / "fedwarm" / "clients"


class Store:
    """Tensors by name and step in `<root>/<key>/<partition>`, readable by their owner only, each file whole or not there.

    Args:
        root: holds the states of all runs on this machine.
        key: the run's key, hexadecimal.
        partition: the client.
        limit_mb: most MiB below `root`; the runs that were written to longest ago are removed first.

    Raises:
        SettingError: the key is not hexadecimal, as a server might send one to reach other folders.
    """

    def __init__(self, root: Path, key: str, partition: int | str, limit_mb: int = 4096) -> None:
        if not KEY.fullmatch(key):
            raise SettingError(f"the run's key {key[:40]!r} is not hexadecimal")
        self.root, self.run = root, root / key
        self.folder = self.run / str(partition)
        self.limit_bytes = limit_mb * MIB

    def save(self, name: str, tensors: Mapping[str, Tensor], step: int) -> None:
        """Write `<name>.<step>.safetensors`; older steps but one go, and later ones, which a broken run left, too.

        Raises:
            SettingError: this run's own states would need more than the limit; nothing was written.
        """
        from safetensors.torch import save_file

        make_folder(self.folder, 0o700)
        with replacing(self._path(name, step), private=True) as temporary:
            save_file({k: t.detach().cpu().contiguous().clone() for k, t in tensors.items()}, temporary)
            self._make_room(temporary)
        steps = self.steps(name)
        kept = [s for s in steps if s <= step][-KEPT_STEPS:]
        for other in set(steps) - set(kept):
            self._path(name, other).unlink(missing_ok=True)

    def of_all(self) -> Store:
        """What all partitions of this run on this machine share."""
        return Store(self.root, self.run.name, ALL, self.limit_bytes // MIB)

    def book(self, name: str, entry: Mapping[str, Any]) -> None:
        """Add an entry to the account `name`, which is on the disk when this returns and is never removed to make room.

        Raises:
            DiskError: it cannot be written.
        """
        add_line(self._account(self.run, name), entry)

    def booked(self, name: str) -> list[dict[str, Any]]:
        """The entries of the account `name`.

        Raises:
            SettingError: the file is damaged.
        """
        return lines_of(self._account(self.run, name))

    def booked_of_all(self, name: str) -> Iterator[list[dict[str, Any]]]:
        """The entries of the account `name` of this partition in each run below the root, this one among them.

        Raises:
            SettingError: a file is damaged.
        """
        for run in sorted(self.root.iterdir()) if self.root.is_dir() else []:
            if KEY.fullmatch(run.name):
                yield lines_of(self._account(run, name))

    def _account(self, run: Path, name: str) -> Path:
        return run / self.folder.name / f"{name}.jsonl"

    def keep(self, name: str, tensors: Mapping[str, Tensor], step: int) -> dict[str, Tensor]:
        """Write what is sent in a step, once; what there is of this step stays. What is there then is returned, and on the disk.

        Of up to LASTING_BYTES it is never removed to make room, and that of the last LASTING_STEPS steps is kept; of what is
        larger the last two steps are kept, and room is made by that of other runs.

        Raises:
            SettingError: as of `save`.
        """
        from safetensors.torch import save

        found = self.kept(name, step)
        if found is not None:
            return found
        raw = save({k: t.detach().cpu().contiguous().clone() for k, t in tensors.items()})
        lasts = len(raw) <= LASTING_BYTES
        path = self._path(name, step, "lasting." if lasts else "")
        make_folder(self.folder, 0o700)
        self._write_once(path, raw)
        for other in sorted(self._steps(name, "lasting." if lasts else ""))[: -LASTING_STEPS if lasts else -KEPT_STEPS]:
            self._path(name, other, "lasting." if lasts else "").unlink(missing_ok=True)
        return self.kept(name, step) or dict(tensors)

    def _write_once(self, path: Path, raw: bytes) -> None:
        """Write a file whole, unless another process has done so meanwhile."""
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        with writing(path):
            try:
                temporary.write_bytes(raw)
                temporary.chmod(PRIVATE)
                settle(temporary)
                self._make_room(temporary)
                with suppress(FileExistsError):
                    os.link(temporary, path)
                settle(self.folder)
            finally:
                temporary.unlink(missing_ok=True)

    def kept(self, name: str, step: int) -> dict[str, Tensor] | None:
        """What was sent in a step; None where it is not there, or no longer."""
        from safetensors.torch import load_file

        places = (self._path(name, step, "lasting."), self._path(name, step))
        return next((load_file(path) for path in places if path.is_file()), None)

    def load(self, name: str, before: int | None = None) -> dict[str, Tensor] | None:
        """The newest tensors of `name`, or the newest of a step below `before`; None where there are none."""
        from safetensors.torch import load_file

        steps = [s for s in self.steps(name) if before is None or s < before]
        return load_file(self._path(name, steps[-1])) if steps else None

    def steps(self, name: str) -> list[int]:
        """The steps that are there, ascending."""
        return self._steps(name)

    def _steps(self, name: str, mark: str = "") -> list[int]:
        pattern = rf"{re.escape(name)}\.(\d+)\.{re.escape(mark)}safetensors"
        found = (re.fullmatch(pattern, p.name) for p in self.folder.glob(f"{name}.*"))
        return sorted(int(match[1]) for match in found if match)

    def _path(self, name: str, step: int, mark: str = "") -> Path:
        return self.folder / f"{name}.{step}.{mark}safetensors"

    def _make_room(self, newest: Path) -> None:
        """Remove other runs' states, oldest first, until all fit; folders are measured only now and then, as that takes long."""
        left, then = _room.get((self.root, self.limit_bytes), (0, 0.0))
        left -= newest.stat().st_size
        if left < 0 or time.monotonic() - then > MEASURED_EVERY_SECONDS:
            left, then = self._measured(), time.monotonic()
        _room[self.root, self.limit_bytes] = (left, then)

    def _measured(self) -> int:
        """Bytes that are free after others' states were removed as far as need be."""
        left = make_room(self.root, self.run, self.limit_bytes)
        if left < 0:
            used = (self.limit_bytes - left) / MIB
            raise SettingError(f"clients' states need {used:.0f} MB below {self.root}; raise client-state-mb")
        return left


def make_room(root: Path, kept: Path, limit_bytes: int) -> int:
    """Remove folders below `root`, but not `kept`, oldest first, until all fit; the bytes that are free then, or missing.

    Accounts of privacy and what was sent under them stay in their folders: an account that is gone would begin anew at nothing,
    and what is sent a second time would be drawn a second time.
    """
    sizes = {run: bytes_below(run) for run in root.iterdir() if run.is_dir()}
    others = sorted((run for run in sizes if run != kept), key=_changed)
    while sum(sizes.values()) > limit_bytes and others:
        oldest = others.pop(0)
        sizes[oldest] = _emptied(oldest)
    return limit_bytes - sum(sizes.values())


def _emptied(folder: Path) -> int:
    """Remove what is in a folder, and the folder, but for what lasts; the bytes that stay."""
    left = 0
    with suppress(OSError):
        for entry in list(os.scandir(folder)):
            if entry.is_dir(follow_symlinks=False):
                left += _emptied(Path(entry.path))
            elif LASTING.fullmatch(entry.name):
                left += entry.stat(follow_symlinks=False).st_size
            else:
                os.unlink(entry.path)
    with suppress(OSError):
        folder.rmdir()
    return left


def _changed(folder: Path) -> float:
    """When something was last written to a folder or to those in it."""
    times = [0.0]
    with suppress(FileNotFoundError):
        times += [folder.stat().st_mtime, *(entry.stat().st_mtime for entry in os.scandir(folder))]
    return max(times)


def bytes_below(folder: Path) -> int:
    """Of all files below; those that go away meanwhile do not count."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                total += os.stat(os.path.join(place, name)).st_size
    return total
