"""What starting Flower's processes takes: free ports, a clean environment, and an end that leaves none of them behind.

Flower's daemons start processes in sessions of their own, which outlive them for a while; `family` knows how all are found.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import random
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from types import FrameType
from typing import IO

import psutil  # type: ignore[import-untyped]

from fedwarm.core.failures import RunError
from fedwarm.core.text import uncoloured
from fedwarm.flower.family import KILL_ROUNDS, MARK, POLL_SECONDS, end_family

LOOPBACK = "127.0.0.1"
LONGEST_RAY_FOLDER = 36
LOWEST_PORT = 20000  # above Flower's 9091 to 9095 and the workers of Ray, 10002 to 19999
SYSTEM_PORTS = Path("/proc/sys/net/ipv4/ip_local_port_range")
_given: set[int] = set()
_left: list[subprocess.Popen[bytes]] = []  # a process that is forgotten while it runs draws a warning


def plain(text: str) -> str:
    """The text without terminal colours."""
    return uncoloured(text)


def free_ports(count: int) -> list[int]:
    """Distinct loopback ports that nobody listens on at this moment, and that this process has given to nobody before.

    They lie below those that the system itself gives to outgoing connections: one of these, of any program of the machine, would
    else take the port between this look and the start of the process that it is for. Where that leaves none, the system chooses.
    """
    own = [port for port in range(LOWEST_PORT, _system_ports_from()) if port not in _given]
    tries = iter(random.SystemRandom().sample(own, len(own)))
    with contextlib.ExitStack() as stack:
        ports: list[int] = []
        while len(ports) < count:
            each, port = stack.enter_context(socket.socket()), next(tries, 0)
            with contextlib.suppress(OSError):
                each.bind((LOOPBACK, port))
                ports.append(each.getsockname()[1])
        _given.update(ports)
        return ports


def _system_ports_from() -> int:
    """The first port that the system gives to outgoing connections: Linux says it; elsewhere it is 49152 (RFC 6335)."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int(SYSTEM_PORTS.read_text().split()[0])
    return 49152


def executable(name: str) -> str:
    """Path of a command of this Python's installation, else of the one on PATH.

    Raises:
        RunError: there is none.
    """
    beside = Path(own_commands()) / name
    found = str(beside) if beside.is_file() else shutil.which(name)
    if found is None:
        raise RunError(f"the command {name} is not installed beside {sys.executable}; pip install 'flwr[simulation]'")
    return found


def bypass(hosts: Sequence[str] = ()) -> dict[str, str]:
    """NO_PROXY in both spellings, with loopback and `hosts` beside what stands there already."""
    present = [part for part in os.environ.get("NO_PROXY", os.environ.get("no_proxy", "")).split(",") if part]
    names = ",".join(dict.fromkeys([*present, LOOPBACK, "localhost", *hosts]))
    return {"NO_PROXY": names, "no_proxy": names}


def environment(home: Path, bytecode: Path | None = None, hosts: Sequence[str] = ()) -> dict[str, str]:
    """This process's environment, changed so that Flower's processes keep to the folder `home` and call nobody.

    Flower's state and Ray's go below `home`, dependencies are not installed, telemetry and update checks are off, the commands
    of this Python's installation come first on PATH, and loopback addresses and `hosts` bypass a proxy. Where packages lie
    without bytecode and none may be written beside them, it goes to `bytecode` (default: below `home`): Flower gives up on a
    process that takes 30 seconds to start and starts another, which a busy machine never catches up with.
    """
    changed = {
        "FLWR_HOME": str(home),
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "PYTHONUNBUFFERED": "1",
        **bypass(hosts),
        "PATH": os.pathsep.join([own_commands(), os.environ.get("PATH", os.defpath)]),
    }
    if len(str(home)) <= LONGEST_RAY_FOLDER:
        changed["RAY_TMPDIR"] = str(home)
    if os.environ.get("PYTHONDONTWRITEBYTECODE") and not _is_compiled("flwr"):
        changed |= {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(bytecode or home / "bytecode")}
    return {**os.environ, **changed}


def own_commands() -> str:
    """The folder of the commands of this Python's installation."""
    return str(Path(sys.executable).parent)


def _is_compiled(package: str) -> bool:
    spec = importlib.util.find_spec(package)
    return spec is not None and spec.origin is not None and Path(importlib.util.cache_from_source(spec.origin)).exists()


def healthy(port: int, host: str = LOOPBACK, authority: Path | None = None) -> bool:
    """Whether a server of Flower's answers at this address; `authority` is the file of the CA of one with TLS."""
    connection = HTTPConnection(host, port, timeout=1.0)
    if authority is not None:
        connection = HTTPSConnection(host, port, timeout=1.0, context=ssl.create_default_context(cafile=str(authority)))
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


class Daemon:
    """A background process for the length of a `with` block; it ends with all that it started, whatever ends the block.

    Args:
        command: the command line; its first word is the name used in errors.
        log: file that takes its output.
        folder: its working directory.
        env: its environment.
        ready: says whether it does its work yet; None: entering the block does not wait.
        patience_seconds: how long it may take to become ready.
        grace_seconds: how long the family has to end by itself before it is killed.
        mark: what its family carries in the environment; default: drawn.

    Raises:
        RunError: on entering, if the process died or was not ready in time; with the last lines of its log.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        log: Path,
        folder: Path,
        env: Mapping[str, str],
        ready: Callable[[], bool] | None = None,
        patience_seconds: float = 120.0,
        grace_seconds: float = 5.0,
        mark: str = "",
    ) -> None:
        self.command, self.log, self.folder = list(command), log, folder
        self.mark = mark or uuid.uuid4().hex
        self.env = {**env, MARK: self.mark}
        self.ready, self.patience_seconds, self.grace_seconds = ready, patience_seconds, grace_seconds
        self._process: subprocess.Popen[bytes] | None = None
        self._output: IO[bytes] | None = None

    def __enter__(self) -> Daemon:
        self._output = self.log.open("ab")
        try:
            self._process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                env=self.env,
                start_new_session=True,
            )
            if self.ready is not None:
                self.wait_until(self.ready)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def alive(self) -> bool:
        """Whether the process itself, not only its family, still runs."""
        return self._process is not None and self._process.poll() is None

    def tail(self, count: int = 20) -> list[str]:
        """The last lines of its log, without colours."""
        return plain(self.log.read_text(encoding="utf-8", errors="replace")).splitlines()[-count:]

    def wait_until(self, check: Callable[[], bool]) -> None:
        """Wait until `check` holds; RunError if the process dies before that or it takes too long."""
        name, end = Path(self.command[0]).name, time.monotonic() + self.patience_seconds
        while not check() or not self.alive:
            if not self.alive:
                raise RunError(f"{name} ended before it was ready", self.tail())
            if time.monotonic() > end:
                raise RunError(f"{name} was not ready after {self.patience_seconds:g} seconds", self.tail())
            time.sleep(POLL_SECONDS)

    def leave(self) -> psutil.Process:
        """Let the process go on after the block and after this program; the process."""
        process, self._process = self._process, None
        assert process is not None
        _left.append(process)
        self.close()
        return psutil.Process(process.pid)

    def close(self) -> None:
        """End the process and its family, and return when they are gone."""
        process, self._process = self._process, None
        output, self._output = self._output, None
        try:
            if process is not None:
                _end(process, self.mark, self.grace_seconds)
        finally:
            if output is not None:
                output.close()


def _end(process: subprocess.Popen[bytes], mark: str, grace_seconds: float) -> None:
    heads = []
    if process.poll() is None:
        with contextlib.suppress(psutil.Error):
            heads = [psutil.Process(process.pid)]
    end_family(heads, [mark], grace_seconds, process.poll)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(KILL_ROUNDS * POLL_SECONDS)


@contextmanager
def ending_on_signals() -> Iterator[None]:
    """Let a polite end of this process (SIGTERM, SIGHUP) run the `finally`s of the block first, as Ctrl-C does.

    Signals that the caller handles or ignores stay as they are; outside the main thread nothing changes.
    """
    came: list[int] = []

    def leave(number: int, _: FrameType | None) -> None:
        came.append(number)
        raise SystemExit(128 + number)

    taken = []
    if threading.current_thread() is threading.main_thread():
        taken = [each for each in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(each) is signal.SIG_DFL]
    for each in taken:
        signal.signal(each, leave)
    try:
        yield
    finally:
        for each in taken:
            signal.signal(each, signal.SIG_DFL)
        if came:
            signal.raise_signal(came[0])


@contextmanager
def superlink(home: Path, *, simulation: bool, bytecode: Path | None = None) -> Iterator[tuple[Daemon, int]]:
    """An insecure SuperLink on a loopback port of its own; `home` takes its state, its log and the file that names it.

    Yields the daemon, whose `env` is what the `flwr` command needs to find it as the default connection, and its port.
    """
    (port,) = free_ports(1)
    empty = home / "work"
    empty.mkdir(parents=True)
    address = f'address = "{LOOPBACK}:{port}"\ninsecure = true\n'
    (home / "config.toml").write_text(f'[superlink]\ndefault = "here"\n\n[superlink.here]\n{address}', encoding="utf-8")
    command = [executable("flower-superlink"), "--insecure", "--host", LOOPBACK, "--port", str(port)]
    with Daemon(
        [*command, *(["--simulation"] if simulation else [])],
        log=home / "superlink.log",
        folder=empty,
        env=environment(home, bytecode),
        ready=lambda: healthy(port),
    ) as daemon:
        yield daemon, port
