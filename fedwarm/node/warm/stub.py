"""`flwr-clientapp` as a small process that has a process forked for the message, and follows it to its end.

    python -I -S stub.py FOLDER MARK ENTRY [what Flower's flwr-clientapp takes]

FOLDER holds the templates' sockets and is its owner's alone; MARK is what templates carry as their family (empty: this one's
own); ENTRY is the file that answers the message, by `warm()` in a template or run as it is. Needs the standard library alone and
is kept small: this is what every message pays. What it is asked with (a token is in it) goes through the socket and into no file.

The forked process begins when it is told so. Until then any trouble means that ENTRY is run in this process; after that, never,
so that no message is answered twice.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import socket
import sys
import time
import zlib

PROTOCOL = b"fedwarm 1"
SWITCH, COLD = "FEDWARM_WARM", "0"
INSTALLING = "--allow-runtime-dependency-installation"
FAMILY = b"FEDWARM_FAMILY"
OWN, OURS = frozenset({b"FLWR_HOME", b"RAY_TMPDIR", b"PWD", b"OLDPWD", b"SHLVL", b"_"}), b"FEDWARM_"
"""What differs between the nodes of a federation and is read by nothing that a template imports; with all that begins so."""
READY, REFUSED, GO, ENDED = b"R", b"N", b"G", b"E"
FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP)
PATIENCE_SECONDS = 15.0  # a process that shows no sign of life for a minute (with Flower as it comes, 30 s) is given up
POLL_SECONDS, FAILED_SECONDS = 0.05, 60.0


def shared(environment: dict[bytes, bytes]) -> list[bytes]:
    """The part of an environment in which a template and its messages are alike: libraries read it when they are loaded."""
    alike = [name for name in environment if name not in OWN and not name.startswith(OURS)]
    return [name + b"=" + environment[name] for name in sorted(alike)]


def identity(entry: str) -> list[bytes]:
    """Which Python runs what."""
    return [PROTOCOL, sys.version.encode(), *map(os.fsencode, (sys.executable, entry))]


def pack(entry: str, words: list[str]) -> bytes:
    """All that a process is started with, but its open files and its folder."""
    mask = os.umask(0o077)
    os.umask(mask)
    environment = [name + b"=" + value for name, value in os.environb.items()]
    return b"\0".join([*identity(entry), b"%d" % mask, b"%d" % len(words), *map(os.fsencode, words), *environment])


def trusted(connection: socket.socket) -> bool:
    """Whether the other side is this user's."""
    told = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    return int.from_bytes(told[4:8], sys.byteorder) == os.geteuid()


def enter(folder: str) -> None:
    """Make the folder of the sockets the working directory: a socket's whole path may have 107 bytes, its name is short.

    Raises:
        OSError: it cannot be, or others may write there.
    """
    os.makedirs(folder, 0o700, exist_ok=True)
    os.chdir(folder)
    found = os.stat(".")
    if found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise PermissionError(folder)


def connected(name: str) -> socket.socket | None:
    """A connection to the template that listens, None where there is none."""
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(f"{name}.sock")
        if trusted(connection):
            return connection
    except OSError:
        pass
    connection.close()
    return None


def started(name: str, mark: str, entry: str, end: float) -> socket.socket | None:
    """A connection to a template that this process or one beside it starts; None if there is none in time."""
    lock = os.open(f"{name}.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        while not _locked(lock):
            if time.monotonic() > end:
                return None
            time.sleep(POLL_SECONDS)
        found = connected(name)
        if found is not None or _failed_lately(lock):
            return found
        ready = spawn(name, mark, entry, lock)
        try:
            told = select.select([ready], [], [], max(0.0, end - time.monotonic()))[0]
            failed = bool(told) and not os.read(ready, 1)
        finally:
            os.close(ready)
        os.ftruncate(lock, 0)
        os.pwrite(lock, b"failed" * failed, 0)
        return connected(name)
    finally:
        os.close(lock)


def _locked(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _failed_lately(lock: int) -> bool:
    """Whether the last template ended before it was ready, and that is not long ago."""
    found = os.fstat(lock)
    return found.st_size > 0 and abs(time.time() - found.st_mtime) < FAILED_SECONDS


def spawn(name: str, mark: str, entry: str, lock: int) -> int:
    """Start a template as nobody's child in a session of its own; a pipe that tells when it is ready, or ends if it never is.

    The lock stays held until then, however long this process waits.
    """
    ready, tell = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.setsid()
            if not os.fork():
                _become_template(name, mark, entry, tell, lock)
        finally:
            os._exit(1)
    os.waitpid(child, 0)
    os.close(tell)
    return ready


def _become_template(name: str, mark: str, entry: str, tell: int, lock: int) -> None:
    log = os.open(f"{name}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
    for number, source in enumerate((os.open(os.devnull, os.O_RDONLY), log, log)):
        os.dup2(source, number)
    for each in (tell, lock):
        os.set_inheritable(each, True)
    environment = {**os.environb, **({FAMILY: mark.encode()} if mark else {})}
    template = os.path.join(os.path.dirname(os.path.abspath(__file__)), "template.py")
    os.execve(sys.executable, [sys.executable, "-P", template, name, entry, str(tell), str(lock)], environment)


def offered(connection: socket.socket, body: bytes, files: list[int], end: float) -> bool:
    """Hand over what a process is started with; whether one waits for the word to begin."""
    try:
        connection.settimeout(max(POLL_SECONDS, end - time.monotonic()))
        socket.send_fds(connection, [len(body).to_bytes(8, "little")], files)
        connection.sendall(body)
        return connection.recv(1) == READY
    except OSError:
        return False


def waiting(folder: str, mark: str, entry: str, words: list[str]) -> socket.socket | None:
    """A connection to a process that waits for the word to begin; None where none can be had."""
    end = time.monotonic() + PATIENCE_SECONDS
    try:
        here = os.open(".", os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return None
    try:
        enter(folder)
        body = pack(entry, words)
        name = f"{zlib.crc32(bytes(0).join([*identity(entry), *shared(dict(os.environb))])):08x}"
        for start in (False, True):
            connection = started(name, mark, entry, end) if start else connected(name)
            if connection is not None and offered(connection, body, [0, 1, 2, here], end):
                return connection
            if connection is not None:
                connection.close()
    except OSError:
        pass
    finally:
        os.fchdir(here)
        os.close(here)
    return None


def follow(connection: socket.socket) -> int | None:
    """Let the process begin and wait for its end, passing signals on; its exit code, None if it did not begin."""
    came: list[int] = []

    def forward(number: int, _: object) -> None:
        came.append(number)
        connection.send(bytes([number]))

    connection.settimeout(None)
    for each in FORWARDED:
        if signal.getsignal(each) != signal.SIG_IGN:
            signal.signal(each, forward)
    begun, told = _told(connection)
    if told[:1] == ENDED and len(told) == 2:
        return told[1]
    if came:  # it ended by a signal, as this process would have
        signal.signal(came[-1], signal.SIG_DFL)
        os.kill(os.getpid(), came[-1])
    if begun:
        os.write(2, b"fedwarm: the process that answered this message was killed, perhaps for want of memory\n")
    return 1 if begun else None


def _told(connection: socket.socket) -> tuple[bool, bytes]:
    """Whether the process was told to begin, and all that it says until it ends."""
    begun, told = False, b""
    try:
        connection.sendall(GO)
        begun = True
        while part := connection.recv(16):
            told += part
    except OSError:
        pass
    return begun, told


def main() -> None:
    """Answer the message warm where that can be, else as Flower does."""
    folder, mark, entry, *words = sys.argv[1:]
    wanted = os.environ.get(SWITCH) != COLD and INSTALLING not in words
    connection = waiting(folder, mark, entry, words) if wanted else None
    code = follow(connection) if connection is not None else None
    if code is not None:
        os._exit(code)
    os.execv(sys.executable, [sys.executable, "-P", entry, *words])


if __name__ == "__main__":
    main()
