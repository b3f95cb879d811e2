"""A process that has loaded what every message needs and answers none itself: it forks a process for each.

    python -P template.py NAME ENTRY TELL LOCK

Started by `stub` in the folder of the sockets; NAME is its socket's; by the open files TELL and LOCK it says that it is ready.
It has one thread, so that a fork loses nothing, and has never spoken to a GPU's driver. It ends when no message came for a while,
when its socket is no longer its own, when a package that it has loaded is another one now, when memory is short, or by SIGTERM;
the processes that it has forked need it no more and go on.
"""

from __future__ import annotations

import contextlib
import gc
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedwarm.node.warm import child, stub

IDLE_VARIABLE, IDLE_SECONDS = "FEDWARM_WARM_IDLE_SECONDS", 120.0
TICK_SECONDS, READ_SECONDS = 1.0, 5.0
LEAST_FREE_BYTES = 256 * 2**20
MEMORY, GROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")
ACCOUNTS = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
)
TASKS, OPEN_FILES = Path("/proc/self/task"), Path("/proc/self/fd")
DRIVERS = ("/dev/nvidia", "/dev/kfd", "/dev/dxg")
FILES, LONGEST = 4, 2**24
HELD = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def loaded(path: Path) -> Any:
    """The module in a file, which belongs to no package here."""
    spec = spec_from_file_location(f"_warm_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ImportError(path)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if not TYPE_CHECKING:
    child, stub = (loaded(Path(__file__).with_name(f"{name}.py")) for name in ("child", "stub"))


class Template:
    """Listens, and forks a process for every stub that asks.

    Args:
        name: of the socket, in the working directory.
        entry: the file that answers messages.
        run: its function.
        began: the environment that this process was started with.
        idle_seconds: it ends when nobody asked for so long.
    """

    def __init__(self, name: str, entry: str, run: Callable[[], object], began: dict[bytes, bytes], idle_seconds: float) -> None:
        self.path, self.entry, self.run, self.began = Path(f"{name}.sock"), entry, run, began
        self.made = {key: value for key, value in os.environb.items() if began.get(key) != value}  # by what was imported
        self.idle_seconds, self.packages = idle_seconds, packages()
        self.listener = listening(self.path)
        self.own = self.path.stat().st_ino

    def serve(self) -> str:
        """Serve until there is a reason to end; the reason."""
        last = time.monotonic()
        while not (why := self.over(last)):
            if select.select([self.listener], [], [], TICK_SECONDS)[0]:
                self.take()
                last = time.monotonic()
            reap()
        self.leave()
        while select.select([self.listener], [], [], 0)[0]:  # who came while it ended
            self.take()
        return why

    def over(self, last: float) -> str:
        """Why it ends now; empty if it does not."""
        if not self.holds():
            return "its socket is gone or another's"
        if time.monotonic() - last > self.idle_seconds:
            return f"no message for {self.idle_seconds:g} s"
        if packages() != self.packages:
            return "a package it has loaded is another one now"
        return "memory is short" if free_bytes() < LEAST_FREE_BYTES else ""

    def holds(self) -> bool:
        """Whether the socket's file is its own still."""
        try:
            return self.path.stat().st_ino == self.own
        except OSError:
            return False

    def leave(self) -> None:
        """Be found no more."""
        if self.holds():
            self.path.unlink(missing_ok=True)

    def take(self) -> None:
        """Fork a process for the next who asks, or say no."""
        connection, _ = self.listener.accept()
        files: list[int] = []
        try:
            connection.settimeout(READ_SECONDS)
            asked = self.asked(connection, files) if stub.trusted(connection) else None
            if asked is None or not self.fork(connection, asked, files):
                connection.sendall(stub.REFUSED)
        except (OSError, ValueError) as error:
            say(f"a question was not understood ({type(error).__name__})")  # not what it said: a token is in it
        finally:
            connection.close()
            for each in files:
                os.close(each)

    def asked(self, connection: socket.socket, files: list[int]) -> child.Asked | None:
        """What a stub was started with, None where a fork of this process would not be the same; its open files go to `files`."""
        head, given, _, _ = socket.recv_fds(connection, 8, FILES)
        files += given
        size = int.from_bytes(head, "little")
        if len(head) != 8 or len(files) != FILES or size > LONGEST:
            raise ValueError
        fields = received(connection, size).split(b"\0")
        same = stub.identity(self.entry)
        if fields[: len(same)] != same:
            return None
        mask, count, *rest = fields[len(same) :]
        environment = dict(each.split(b"=", 1) for each in rest[int(count) :])
        if stub.shared(environment) != stub.shared(self.began) or packages() != self.packages:
            return None
        return child.Asked(list(map(os.fsdecode, rest[: int(count)])), {**environment, **self.made}, int(mask))

    def fork(self, connection: socket.socket, asked: child.Asked, files: list[int]) -> bool:
        """Fork a process that answers; False where there can be no more processes."""
        with held():
            try:
                pid = os.fork()
            except OSError:
                return False
            if not pid:
                self.listener.close()
                child.answer(connection, asked, files, self.run, self.entry)
        say(f"message: process {pid}")
        return True


@contextlib.contextmanager
def held() -> Iterator[None]:
    """No signal comes between; the forked process takes them when it is ready for them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, HELD)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def received(connection: socket.socket, size: int) -> bytes:
    """So many bytes; ValueError if there are fewer."""
    parts, left = [], size
    while left:
        part = connection.recv(min(left, 65536))
        if not part:
            raise ValueError
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


def listening(path: Path) -> socket.socket:
    """A socket that listens at a path, which is there as soon as it does."""
    listener, own = socket.socket(socket.AF_UNIX), path.with_suffix(f".{os.getpid()}")
    listener.bind(str(own))
    listener.listen(128)
    os.replace(own, path)
    return listener


def packages() -> dict[str, tuple[int, int]]:
    """When the files of all top-level packages that are loaded were written, and which files they are."""
    found = {}
    for name, module in list(sys.modules.items()):
        path = getattr(module, "__file__", None)
        if path and "." not in name:
            with contextlib.suppress(OSError):
                told = os.stat(path)
                found[name] = (told.st_mtime_ns, told.st_ino)
    return found


def free_bytes() -> int:
    """Memory that can be had, of the machine and of its container (`fedwarm.core.capacity` looks at all groups above, too)."""
    rows = dict(line.split(":") for line in MEMORY.read_text().splitlines())
    free = int(rows["MemAvailable"].split()[0]) * 1024
    for most, taken, pages in ACCOUNTS:
        with contextlib.suppress(OSError, ValueError):  # no such group, or no limit: the word "max"
            room = int((GROUP / most).read_text()) - int((GROUP / taken).read_text())
            kept = dict(line.split() for line in (GROUP / most).with_name("memory.stat").read_text().splitlines())
            free = min(free, room + int(kept.get(pages, 0)))
    return free


def forkable() -> str:
    """Why a fork of this process would lose something; empty if it would not.

    numpy's threads end by themselves before a fork, and begin again in both processes when they are needed: so one is made first.
    """
    if not (trial := os.fork()):
        os._exit(0)
    os.waitpid(trial, 0)
    if threading.active_count() > 1 or len(list(TASKS.iterdir())) > 1:
        return "what it has loaded has started threads"
    for each in OPEN_FILES.iterdir():
        with contextlib.suppress(OSError):
            if os.readlink(each).startswith(DRIVERS):
                return "what it has loaded speaks to a GPU's driver"
    return ""


def reap() -> None:
    """Let ended children go."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def say(line: str) -> None:
    print(f"fedwarm: {line}", file=sys.stderr, flush=True)


def _leave(number: int, _: object) -> None:
    raise SystemExit(f"fedwarm: ended by {signal.Signals(number).name}")


def main() -> None:
    """Load, listen, serve."""
    name, entry, tell, lock = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    began = dict(os.environb)
    for number in HELD:
        signal.signal(number, _leave)
    if free_bytes() < LEAST_FREE_BYTES:
        raise SystemExit("fedwarm: memory is short")
    run = loaded(Path(entry)).warm()
    if why := forkable():
        raise SystemExit(f"fedwarm: {why}")
    template = Template(name, entry, run, began, float(os.environ.get(IDLE_VARIABLE) or IDLE_SECONDS))
    gc.collect()
    gc.freeze()
    say(f"ready as process {os.getpid()} after {time.process_time():.1f} s of computing")
    with contextlib.suppress(BrokenPipeError):  # who started it waits no more; the next message finds it
        os.write(tell, b"1")
    os.close(tell)
    os.close(lock)
    try:
        say(f"ended: {template.serve()}")
    finally:
        template.leave()


if __name__ == "__main__":
    main()
