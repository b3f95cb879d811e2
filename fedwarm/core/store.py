"""What a client keeps for later rounds: named tensors on its own disk, one folder per run and partition, never sent.

A state has a step, usually the round that made it. The newest two are kept: so a round that is asked for again, after a lost
reply or a resumed run, begins at the state from before it and ends in the same one.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from torch import Tensor

from fedwarm.core.files import make_folder, replacing
from fedwarm.settings.fields import SettingError

KEPT_STEPS = 2
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

    def __init__(self, root: Path, key: str, partition: int, limit_mb: int = 4096) -> None:
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

    def load(self, name: str, before: int | None = None) -> dict[str, Tensor] | None:
        """The newest tensors of `name`, or the newest of a step below `before`; None where there are none."""
        from safetensors.torch import load_file

        steps = [s for s in self.steps(name) if before is None or s < before]
        return load_file(self._path(name, steps[-1])) if steps else None

    def steps(self, name: str) -> list[int]:
        """The steps that are there, ascending."""
        found = (re.fullmatch(rf"{re.escape(name)}\.(\d+)\.safetensors", p.name) for p in self.folder.glob(f"{name}.*"))
        return sorted(int(match[1]) for match in found if match)

    def _path(self, name: str, step: int) -> Path:
        return self.folder / f"{name}.{step}.safetensors"

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
    """Remove folders below `root`, but not `kept`, oldest first, until all fit; the bytes that are free then, or missing."""
    sizes = {run: bytes_below(run) for run in root.iterdir() if run.is_dir()}
    others = sorted((run for run in sizes if run != kept), key=_changed)
    while sum(sizes.values()) > limit_bytes and others:
        oldest = others.pop(0)
        sizes.pop(oldest)
        shutil.rmtree(oldest, ignore_errors=True)
    return limit_bytes - sum(sizes.values())


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
