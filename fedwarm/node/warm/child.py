"""A process that a template has forked: it becomes what the stub would have been, answers the message, and ends with the stub.

It says that it is ready, and begins when the stub says so. From then on the connection carries signals in one direction and the
exit code in the other; where it ends, the stub was killed, and so is this process.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from socket import socket
from typing import NamedTuple

READY, GO, ENDED = b"R", b"G", b"E"
FAILED, INTERRUPTED = 1, 130
RESET = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGCHLD)


class Asked(NamedTuple):
    """What the stub was started with: command line, environment, umask."""

    words: list[str]
    environment: dict[bytes, bytes]
    umask: int


def answer(connection: socket, asked: Asked, files: Sequence[int], run: Callable[[], object], entry: str) -> None:
    """Answer one message and end this process.

    Args:
        connection: to the stub.
        asked: what it was started with.
        files: its standard input, output and error, and its working directory.
        run: answers the message.
        entry: the file that would have been run.
    """
    code = FAILED
    try:
        become(asked, files, entry)
        connection.setblocking(True)
        connection.sendall(READY)
        if connection.recv(1) == GO:
            threading.Thread(target=_heed, args=(connection,), daemon=True).start()
            code = outcome(run)
            code = max(code, outcome(_finish))
            connection.sendall(ENDED + bytes([code]))
    finally:
        os._exit(code)


def become(asked: Asked, files: Sequence[int], entry: str) -> None:
    """Take over all that the stub was started with."""
    for each in RESET:
        signal.signal(each, signal.default_int_handler if each == signal.SIGINT else signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    for number, file in enumerate(files[:3]):
        os.dup2(file, number)
    os.fchdir(files[3])
    for file in files:
        os.close(file)
    os.umask(asked.umask)
    os.environ.clear()
    os.environb.update(asked.environment)
    sys.argv[:] = [entry, *asked.words]
    sys.stdout.reconfigure(line_buffering=sys.stdout.isatty() or sys.stdout.line_buffering)  # type: ignore[union-attr]
    if "numpy.random" in sys.modules:
        sys.modules["numpy.random"].seed()  # `random` and `ssl` do so by themselves; torch's begins alike in every process


def outcome(run: Callable[[], object]) -> int:
    """Call a function as an interpreter runs a program; the exit code."""
    try:
        run()
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return (end.code or 0) & 0xFF
        print(end.code, file=sys.stderr)
        return FAILED
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        return INTERRUPTED if isinstance(error, KeyboardInterrupt) else FAILED
    return 0


def _finish() -> None:
    """What an interpreter does at its end, but for taking apart what will be gone with the process."""
    vars(threading)["_shutdown"]()  # waits for threads
    vars(atexit)["_run_exitfuncs"]()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()


def _heed(connection: socket) -> None:
    """Take the signals that the stub passes on, and end when it is gone."""
    try:
        while told := connection.recv(1):
            os.kill(os.getpid(), told[0])
    finally:
        os._exit(FAILED)
