"""Which `flwr-clientapp` a node starts for every message: this installation's, warm where that can be (see `warm`)."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import zlib
from pathlib import Path

from fedwarm.core.files import replacing
from fedwarm.flower.processes import own_commands

COMMAND, EXECUTOR = "flwr-clientapp", "flower-superexec"
FOLDER, SOCKETS = "fedwarm", "clients"
POLL_VARIABLE, POLL_SECONDS = "FLWR_SUPEREXEC_TASK_POLL_INTERVAL", 0.25
"""How often a node's executor looks whether there is a message to answer, on this machine; by itself once a second."""


def script(sockets: Path, mark: str = "", cold: bool = False) -> str:
    """A `flwr-clientapp` for a shell.

    Args:
        sockets: the folder of the templates' sockets, made if need be.
        mark: what templates carry as their family; empty: the node's own.
        cold: every message is answered by a process that loads torch and Flower itself, as is all that is not Linux.
    """
    here = Path(__file__).parent
    entry = str(here / "clientapp.py")
    words = ["-I", "-S", str(here / "warm" / "stub.py"), str(sockets), mark, entry]
    if cold or sys.platform != "linux":
        words = ["-P", entry]
    return f'#!/bin/sh\nexec {shlex.join([sys.executable, *words])} "$@"\n'


def write(folder: Path, text: str) -> None:
    """Write a script as the command that a node finds in this folder."""
    with replacing(folder / COMMAND) as temporary:
        temporary.write_text(text, encoding="utf-8")
        temporary.chmod(0o700)


def with_own_commands(path: str) -> str:
    """A PATH on which a SuperNode finds this installation's commands, its environment activated or not.

    It stays as it is where it does; what somebody put before them, a federation its own `flwr-clientapp`, comes first there.
    """
    return path if _is_own(EXECUTOR, path) else os.pathsep.join([own_commands(), path])


def with_warm_messages(path: str, home: Path) -> str:
    """The PATH with a `flwr-clientapp` of this node's before Flower's; as it is where it has another already.

    Args:
        path: names this installation's commands.
        home: of the node's SuperNode; nodes may share one.

    Raises:
        DiskError: it cannot be written below `home`.
    """
    if not _is_own(COMMAND, path):
        return path
    place = home.absolute() / FOLDER
    text = script(place / SOCKETS)
    folder = place / f"{zlib.crc32(text.encode()):08x}"  # another installation's node has another
    write(folder, text)
    return os.pathsep.join([str(folder), path])


def _is_own(name: str, path: str) -> bool:
    return shutil.which(name, path=path) == os.path.join(own_commands(), name)
