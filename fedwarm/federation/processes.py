"""The federation's processes: their command lines, how they are started to stay, found again and ended.

The SuperLink and SuperExec are processes apart, so that a SuperLink which ends takes no ServerApp with it: started again within a
minute it goes on from its database. A SuperNode starts its own SuperExec.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from fedwarm.core.chain import FILE
from fedwarm.core.progress import LOG_SECONDS_VARIABLE
from fedwarm.core.version import VERSION
from fedwarm.data.settings import DATA_FOLDER
from fedwarm.federation.patient import AUDIT_VARIABLE
from fedwarm.federation.settings import CLIENTS, SUPEREXEC, SUPERLINK, Federation, Node, Process
from fedwarm.flower.family import MARK, end_family, lives
from fedwarm.flower.processes import LOOPBACK, Daemon, environment, executable, plain
from fedwarm.node.kit import quoted
from fedwarm.node.line import PIECES
from fedwarm.node.messages import POLL_VARIABLE
from fedwarm.record.record import ENGINE_VARIABLE

ENGINE = "deployment"
POLL_SECONDS_PER_NODE, LEAST_POLL_SECONDS = 0.02, 0.1
LOG_SECONDS = 1.0
GRACE_SECONDS = 10.0
CLOCK_SECONDS = 2.0
SECRET = "superexec.secret"
SUPERLINK_COMMAND = [sys.executable, "-P", "-m", "fedwarm.federation.patient"]
"""`flower-superlink` that waits longer for its database."""
SUPERNODE = [sys.executable, "-P", "-m", "fedwarm.node.supernode"]
"""`flower-supernode` that ends when it is no longer heard, and tells of its heartbeats."""


def command(federation: Federation, member: str) -> list[str]:
    """The command line of a member."""
    if member == SUPERLINK:
        return _superlink(federation)
    if member == SUPEREXEC:
        return _superexec(federation)
    return _supernode(federation, next(node for node in federation.nodes if node.name == member))


def _superlink(federation: Federation) -> list[str]:
    certificates, state = federation.folder / "certificates", federation.folder / "database" / "state.db"
    place = ["--host", federation.host, "--port", str(federation.port), "--isolation", "process", "--database", str(state)]
    secret = ["--superexec-auth-secret-file", str(federation.folder / "keys" / SECRET)]
    if federation.insecure:
        return [*SUPERLINK_COMMAND, "--insecure", *place, *secret]
    own = ["--ssl-certfile", str(certificates / "server.crt"), "--ssl-keyfile", str(certificates / "server.key")]
    proved = [*own, "--ssl-ca-certfile", str(federation.authority), "--enable-supernode-auth"]
    return [*SUPERLINK_COMMAND, *proved, *place, *secret]


def _superexec(federation: Federation) -> list[str]:
    secret = ["--superexec-auth-secret-file", str(federation.folder / "keys" / SECRET)]
    return [executable("flower-superexec"), *_trust(federation), "--runtime-api-address", federation.address, *secret]


def _supernode(federation: Federation, node: Node) -> list[str]:
    key = [] if federation.insecure else ["--auth-supernode-private-key", str(federation.key_file(node.name))]
    own = ["--host", LOOPBACK, "--port", str(node.port), "--node-config", node_config(federation, node)]
    return [*SUPERNODE, *_trust(federation), "--superlink", federation.address, *key, *own]


def _trust(federation: Federation) -> list[str]:
    return ["--insecure"] if federation.insecure else ["--root-certificates", str(federation.authority)]


def node_config(federation: Federation, node: Node) -> str:
    """What a node tells its ClientApps of itself: its name, which part of the data is its own, and where it has data itself."""
    own = f" {DATA_FOLDER}={quoted(node.data)}" if node.data else ""
    return f'site="{node.name}" partition-id={node.partition} num-partitions={len(federation.nodes)}{own}'


def place(federation: Federation, member: str) -> Path:
    """A member's working directory: runs that name no folder land in SuperExec's, below `runs`."""
    return federation.folder if member in (SUPERLINK, SUPEREXEC) else federation.folder / "nodes" / member


def home(federation: Federation, member: str) -> Path:
    """A member's FLWR_HOME."""
    return federation.flower if member in (SUPERLINK, SUPEREXEC) else place(federation, member)


def member_environment(federation: Federation, member: str) -> dict[str, str]:
    """A member's environment: a FLWR_HOME of its own, no way around by a proxy, short waits, and progress in its log."""
    server = member in (SUPERLINK, SUPEREXEC)
    base = environment(home(federation, member), federation.folder / "bytecode", [federation.reach])
    lean = {} if server else {"PATH": os.pathsep.join([str(federation.folder / "bin"), base["PATH"]])}
    audit = {AUDIT_VARIABLE: str(federation.folder / FILE)} if member == SUPERLINK else {}
    poll = max(LEAST_POLL_SECONDS, POLL_SECONDS_PER_NODE * len(federation.nodes))
    return {
        **PIECES,
        **base,
        **lean,
        **audit,
        POLL_VARIABLE: f"{poll:.2f}",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        ENGINE_VARIABLE: ENGINE,
        LOG_SECONDS_VARIABLE: f"{LOG_SECONDS:g}",
    }


def start(federation: Federation, member: str) -> None:
    """Start a member in the background and remember it; its log begins anew."""
    log, folder = federation.log(member), place(federation, member)
    log.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    if log.exists():
        os.replace(log, log.with_name(f"{log.name}.1"))
    env = member_environment(federation, member)
    daemon = Daemon(command(federation, member), log=log, folder=folder, env=env, mark=federation.mark(member))
    process = daemon.__enter__().leave()
    federation.processes[member] = Process(process.pid, process.create_time(), VERSION)
    federation.save()


def living(federation: Federation, member: str) -> psutil.Process | None:
    """A member's process, None where it ended: what has its id today is its own if it carries the member's mark.

    Its start counts only where it carries none or nobody may see it: the start changes with the clock, as on a board that learns
    the time after it has started.
    """
    known = federation.processes.get(member)
    if known is None:
        return None
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(known.pid)
        if _is(process, federation.mark(member), known.started) and lives(process):
            return process
    return None


def _is(process: psutil.Process, mark: str, started: float) -> bool:
    carried = None
    with contextlib.suppress(psutil.AccessDenied, OSError):
        carried = process.environ().get(MARK)
    return bool(abs(process.create_time() - started) <= CLOCK_SECONDS if carried is None else carried == mark)


def dead(federation: Federation) -> list[str]:
    """Members that do not run."""
    return [member for member in federation.members if living(federation, member) is None]


def end(federation: Federation, members: Iterable[str]) -> None:
    """End members with all that they started, and forget them: nodes first, so that they can sign off from the SuperLink."""
    named = list(members)
    servers = [member for member in named if member in (SUPERLINK, SUPEREXEC)]
    for group in ([member for member in named if member not in servers], servers):
        heads = [process for member in group if (process := living(federation, member)) is not None]
        if group:
            end_family(heads, [federation.mark(member) for member in group], GRACE_SECONDS)
        for member in group:
            federation.processes.pop(member, None)
    federation.save()
    if not any(living(federation, node.name) for node in federation.nodes):
        end_templates(federation)


def end_templates(federation: Federation) -> None:
    """End what the nodes' messages were forked from; it starts anew with the next message."""
    end_family([], [federation.templates], GRACE_SECONDS)
    shutil.rmtree(federation.folder / CLIENTS, ignore_errors=True)


def tail(federation: Federation, member: str, count: int = 20) -> list[str]:
    """The last lines of a member's log, without colours."""
    path = federation.log(member)
    return plain(path.read_text(encoding="utf-8", errors="replace")).splitlines()[-count:] if path.is_file() else []
