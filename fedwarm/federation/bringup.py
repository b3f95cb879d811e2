"""Starting a federation, whole or what is missing of it, and ending it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from pathlib import Path

from fedwarm.federation.control import Unreachable, control
from fedwarm.federation.kits import let_sites_in, reload
from fedwarm.federation.nodes import Nodes, Tell, register, watch
from fedwarm.federation.preparing import Wanted, prepare
from fedwarm.federation.processes import end, living, start
from fedwarm.federation.settings import SUPEREXEC, SUPERLINK, Federation, folder_of, load, locked, refuse_remote
from fedwarm.flower.processes import ending_on_signals, healthy

PATIENCE_SECONDS, PATIENCE_SECONDS_PER_NODE = 180.0, 10.0


def up(said: str, wanted: Wanted, tell: Tell) -> Federation:
    """Bring a federation up: start what does not run, let the nodes' keys in, and wait until all nodes are online.

    Args:
        said: its name or folder.
        wanted: how it should be.
        tell: takes a line about what happens.

    Raises:
        SettingError: it cannot be as it was asked for; nothing was started.
        RunError: a process ended, or nodes were not online in time. What this call started has ended again.
    """
    with locked(folder_of(said)), ending_on_signals():
        before = _certificate(folder_of(said))
        federation = prepare(said, wanted)
        running = [member for member in federation.members if living(federation, member) is not None]
        present = list(running)
        if SUPERLINK in present and _certificate(federation.folder) != before:
            present.remove(SUPERLINK)  # it shows the one that it was started with
            tell(f"superlink: is started anew, with a certificate that was issued anew; runs go on{reload(federation)}")
        patience = wanted.patience_seconds or PATIENCE_SECONDS + PATIENCE_SECONDS_PER_NODE * len(federation.nodes)
        try:
            _bring_up(federation, present, tell, patience)
        except BaseException:
            end(federation, [member for member in federation.members if member not in running])
            raise
    return federation


def _certificate(folder: Path) -> bytes:
    file = folder / "certificates" / "server.crt"
    return file.read_bytes() if file.is_file() else b""


def _bring_up(federation: Federation, present: Sequence[str], tell: Tell, patience_seconds: float) -> None:
    end_at = time.monotonic() + patience_seconds
    if SUPERLINK not in present:
        end(federation, [SUPERLINK])  # what an earlier one left
        start(federation, SUPERLINK)
    while not healthy(federation.port, federation.reach, federation.authority):
        watch(federation, [SUPERLINK], end_at, "answering")
    tell(f"superlink: answers at {federation.address}")
    if SUPEREXEC not in present:
        end(federation, [SUPEREXEC])
        start(federation, SUPEREXEC)
    with control(federation) as link:
        if federation.outside:
            let_sites_in(federation, link, tell)
        elif not federation.insecure:
            register(federation, link, tell)
        Nodes(federation, link, tell, end_at).wait()


def down(said: str, tell: Tell) -> int:
    """End a federation's processes, however many of them are left, and the runs that go on; the number of members that ran.

    Raises:
        SettingError: there is no such federation.
    """
    refuse_remote(load(said), said, "end it there")
    with locked(folder_of(said)):
        federation = load(said)
        running = [member for member in federation.members if living(federation, member) is not None]
        if SUPERLINK in running and healthy(federation.port, federation.reach, federation.authority):
            with contextlib.suppress(Unreachable, RuntimeError), control(federation) as link:
                for run in link.runs():
                    if not run.finished:
                        link.stop(run.run_id)
                        tell(f"run {run.run_id} is stopped; `fedwarm run --resume --out FOLDER` goes on with it")
        end(federation, {*federation.members, *federation.processes})
        return len(running)
