"""How worker processes start: forked where that is safe, which takes no time, and else spawned.

Three things do not survive a fork. A GPU's driver, once it was spoken to: where there is a GPU, workers are spawned. The threads
of torch's automatic differentiation, which it starts at its first backward pass where anything (an export to ONNX, a package of
another device) has made a device other than the CPU known: a trial fork finds that out. And the OpenMP threads that a thread of
this process has computed with: they are gone in the child, which waits for them for ever (GCC's libgomp keeps them with the
thread that began them). So workers are forked by a new thread, which has none, whatever its caller did.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.process import BaseProcess, current_process, parent_process
from pathlib import Path

FORK, SPAWN = "fork", "spawn"
OPEN_FILES = Path("/proc/self/fd")
DRIVERS = ("/dev/nvidia", "/dev/kfd", "/dev/dxg")
TRIAL_SECONDS = 20.0


def start_method() -> str:
    """`fork` or `spawn`, as it is safe in this process now."""
    if sys.platform != "linux" or _sees_gpu() or _speaks_to_driver() or not _fork_can_train():
        return SPAWN
    return FORK


def begin(process: BaseProcess, method: str) -> None:
    """Start the process; a fork is a new thread's.

    Raises:
        OSError: there can be no more processes.
    """
    if method == FORK:
        aside(process.start)
    else:
        process.start()


def aside(start: Callable[[], object]) -> None:
    """Call what forks in a thread that has computed nothing; what it raises is raised here."""
    failures: list[BaseException] = []

    def call() -> None:
        try:
            start()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=call, name="fedwarm-fork")
    thread.start()
    thread.join()
    if failures:
        raise failures[0]


def leave_signals_to_parent() -> None:
    """From now on a terminal's signals to the group are the parent's alone to heed, and SIGTERM just ends this process."""
    for each in (signal.SIGINT, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def end_with_parent() -> None:
    """From now on this process ends when the one that started it is gone."""

    def wait() -> None:
        parent = parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def imports_its_starter() -> bool:
    """Whether this is a spawned process that still imports the script which started it."""
    return bool(getattr(current_process(), "_inheriting", False))


def _sees_gpu() -> bool:
    """Whether torch, where it is loaded, could use a GPU here; asking it may speak to the driver, which then cannot be forked."""
    torch = sys.modules.get("torch")
    return torch is not None and bool(torch.cuda.is_available())


def _fork_can_train() -> bool:
    """Whether a child forked now can compute gradients: tried in one, some hundredths of a second."""
    if "torch" not in sys.modules:
        return True
    trial = get_context("fork").Process(target=_one_backward_pass)
    try:
        begin(trial, FORK)
    except OSError:
        return True  # whoever starts the workers meets the same error, and tells it
    trial.join(TRIAL_SECONDS)
    if trial.exitcode is None:
        trial.kill()
        trial.join()
    return trial.exitcode == 0


def _one_backward_pass() -> None:
    import torch

    try:
        torch.ones(1, requires_grad=True).sum().backward()
    except RuntimeError:
        os._exit(1)
    os._exit(0)


def _speaks_to_driver() -> bool:
    """Whether anything in this process holds a GPU's driver open."""
    with suppress(OSError):
        for each in OPEN_FILES.iterdir():
            with suppress(OSError):
                if os.readlink(each).startswith(DRIVERS):
                    return True
    return False
