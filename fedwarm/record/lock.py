"""One process in a run folder at a time: a file that says whose the folder is, locked by the system while that process lives.

The system gives the lock back when its process ends, however it ends, so a file that nobody holds blocks nobody on the machine
that left it. What the file says is asked where the lock cannot tell: another machine's process (a network disk may not carry
locks), and disks without locks, where the process is looked up by its number and by when it began.
"""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from weakref import WeakSet

from fedwarm.core.files import writing
from fedwarm.settings.fields import SettingError

LOCK = ".fedwarm.lock"
_BOOT = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True)
class Owner:
    """A process: its number may be another's later, but not with the same beginning. `boot` is one start of one machine."""

    host: str
    boot: str
    pid: int
    begun: str

    @staticmethod
    def me() -> Owner:
        """This process."""
        return Owner(socket.gethostname(), _boot(), os.getpid(), begun(os.getpid()))

    @staticmethod
    def read(path: Path) -> Owner | None:
        """Who wrote a lock file; None where it says nothing."""
        try:
            told = json.loads(path.read_text(encoding="utf-8"))
            return Owner(str(told["host"]), str(told["boot"]), int(told["pid"]), str(told["begun"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    @property
    def here(self) -> bool:
        """Whether it ran on this machine since it started, in whatever container."""
        return self.boot == _boot() if self.boot and _boot() else self.host == socket.gethostname()

    @property
    def elsewhere(self) -> bool:
        """Whether it ran on another machine; one of this name that was started anew is this one."""
        return not self.here and self.host != socket.gethostname()

    @property
    def alive(self) -> bool:
        """Whether it is at work on this machine, as far as this process can see."""
        return self.here and bool(self.begun) and begun(self.pid) == self.begun


class Lock:
    """A run folder's lock; `held` may be nested in one object, and two objects refuse each other, in one process too."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / LOCK
        self._depth, self._descriptor = 0, -1
        self._made: list[Path] = []
        _all.add(self)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold it for the block; afterwards the file is gone, and so are folders that were made for it and stayed empty.

        Raises:
            SettingError: another process is at work in the folder.
            DiskError: the folder cannot be written to.
        """
        if not self._depth:
            self._take()
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
            if not self._depth:
                self._give()

    def _take(self) -> None:
        with writing(self.folder):
            self._made = [path for path in (self.folder, *self.folder.parents) if not path.exists()]
        while self._descriptor < 0:
            with writing(self.folder):
                self.folder.mkdir(parents=True, exist_ok=True)
                descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                _refuse(self.path, descriptor)
                if os.fstat(descriptor).st_nlink:  # else its owner removed it meanwhile, and a new one is taken
                    with writing(self.path):
                        os.ftruncate(descriptor, 0)
                        os.pwrite(descriptor, (json.dumps(asdict(Owner.me())) + "\n").encode(), 0)
                    self._descriptor = descriptor
            finally:
                if self._descriptor < 0:
                    os.close(descriptor)

    def _give(self) -> None:
        if self._descriptor < 0:  # a forked child's, whose parent goes on
            return
        with suppress(OSError):
            self.path.unlink()
        self._leave()
        with suppress(OSError):
            for path in self._made:
                path.rmdir()

    def _leave(self) -> None:
        """Close the file, which gives the system's lock back where no other process has it open."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = -1


def refuse_busy(folder: Path) -> None:
    """Refuse a folder that a process is at work in; nothing is written.

    Raises:
        SettingError: one is.
    """
    path = folder / LOCK
    with suppress(FileNotFoundError, NotADirectoryError, PermissionError):
        descriptor = os.open(path, os.O_RDWR)
        try:
            _refuse(path, descriptor)
        finally:
            os.close(descriptor)


def _refuse(path: Path, descriptor: int) -> None:
    """Take the system's lock on an open lock file, or say why not."""
    owner, free = Owner.read(path), _locked(descriptor)
    if owner is not None and owner.elsewhere:
        raise SettingError(
            f"{path.parent} is in use by process {owner.pid} on {owner.host}; if that host is gone or the process has ended, "
            f"remove the lock: rm {shlex.quote(str(path))}"
        )
    if free is False or (free is None and owner is not None and owner.alive):
        who = f"process {owner.pid} on this host" if owner is not None else "another process"
        raise SettingError(f"{path.parent} is in use by {who}; wait for its end, end it, or name another folder")


def _locked(descriptor: int) -> bool | None:
    """Whether the lock is ours now; None where the disk knows no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False
    except OSError:
        return None


def begun(pid: int) -> str:
    """When a process of this machine began, in the system's own words; empty where there is none."""
    if Path("/proc/self/stat").exists():
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
        except (OSError, IndexError):
            return ""
    import psutil  # type: ignore[import-untyped]

    try:
        return f"{psutil.Process(pid).create_time():.0f}"
    except psutil.Error:
        return ""


def _boot() -> str:
    try:
        return _BOOT.read_text().strip()
    except OSError:
        return ""


_all: WeakSet[Lock] = WeakSet()


def _forked() -> None:
    for lock in list(_all):
        lock._leave()


os.register_at_fork(after_in_child=_forked)
