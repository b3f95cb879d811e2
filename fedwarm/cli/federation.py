"""`fedwarm federation`: up, status, logs, down."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedwarm.cli.help import App
from fedwarm.cli.metrics import metrics
from fedwarm.cli.options import Named
from fedwarm.cli.parties import connect, keys
from fedwarm.cli.sites import kit, new, register, renew, revoke
from fedwarm.core.terminal import flush, put, say, show
from fedwarm.data.settings import OWN

if TYPE_CHECKING:
    from fedwarm.federation.settings import Federation

app = App("Start, inspect and stop a federation of Flower's processes on this machine, with TLS and node keys.")
PROXIES = ("http_proxy", "https_proxy", "all_proxy")
FOLLOW_SECONDS = 0.3


@app.command()
def up(
    federation: Named = "default",
    nodes: Annotated[int, typer.Option(help="number of SuperNodes; 0: as before, 3 the first time")] = 0,
    insecure: Annotated[
        bool | None, typer.Option("--insecure", help="no TLS and no node keys; loopback only", show_default=False)
    ] = None,
    host: Annotated[str, typer.Option(help="address that the SuperLink listens on; default 127.0.0.1, or as before")] = "",
    data: Annotated[
        Path | None, typer.Option(help="one folder for each node below it: its own data, and its name; default as before")
    ] = None,
    wait: Annotated[float, typer.Option(help="most seconds until all nodes are online; 0: 180, and 10 a node")] = 0.0,
    cold: Annotated[
        bool | None,
        typer.Option(
            "--cold/--warm",
            help="client processes; cold: load torch for every message; warm (default): fork from one that has it",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Start SuperLink, SuperExec and SuperNodes in the background (those that are not running), and wait until all are online."""
    from fedwarm.core.failures import RunError
    from fedwarm.federation.bringup import up as bring_up
    from fedwarm.federation.preparing import Wanted

    try:
        found = bring_up(federation, Wanted(nodes, insecure, host, wait, "" if data is None else str(data), cold), say)
    except RunError as error:
        for line in error.lines:
            say(f"  | {line}")
        raise
    put("\n".join(usage(found, federation)))


def usage(found: Federation, said: str) -> list[str]:
    """What a person does next: one line for Flower's own command, one for fedwarm's."""
    from fedwarm.federation.settings import flag
    from fedwarm.flower.processes import LOOPBACK

    how = "without TLS and keys" if found.insecure else "TLS and node keys"
    if found.outside:
        started = f"federation {found.name}: up, SuperLink at {found.address}, sites call {found.outside}, folder {found.folder}"
        return [started, f"  fedwarm federation kit SITE{flag(said)}", f"  fedwarm run fedavg --engine deployment{flag(said)}"]
    own = f' -c "data.name={OWN!r}"' if found.data else ""
    direct = f"NO_PROXY={found.reach} " if _behind_proxy() else ""
    lines = [
        f"federation {found.name}: {len(found.nodes)} nodes online, {how}, SuperLink at {found.address}, folder {found.folder}",
        f"  {direct}FLWR_HOME={shlex.quote(str(found.flower))} flwr run . --stream",
        f"  fedwarm run fedavg --engine deployment{flag(said)}{own}",
    ]
    if found.host != LOOPBACK:
        lines.append("  whoever reaches this port can start runs: Flower has no lock on it; let others in through a proxy only")
    return lines


def _behind_proxy(environment: Mapping[str, str] | None = None) -> bool:
    import os

    return any(name.lower() in PROXIES and value for name, value in (environment or os.environ).items())


for each in (keys, connect, new, kit, register, revoke, renew, metrics):
    app.command()(each)


@app.command()
def status(federation: Named = "default") -> None:
    """Show processes and nodes with their last heartbeat, and the current run with its last stage."""
    from fedwarm.federation.settings import load
    from fedwarm.federation.status import status as ask

    found = load(federation)
    told = ask(found)
    how = "without TLS and keys" if found.insecure else "TLS and node keys"
    put(f"federation {found.name}: {how}, SuperLink at {found.address}, folder {found.folder}")
    show(["process", "partition", "state", "last seen", "pid", "version"], [member.row() for member in told.members])
    for line in (*told.runs, *told.notes):
        put(line)


@app.command()
def logs(
    node: Annotated[str, typer.Argument(help="a node's name or partition, superlink or superexec")],
    federation: Named = "default",
    lines: Annotated[int, typer.Option("-n", "--lines", min=1, help="how many of the last lines")] = 50,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="keep printing new lines until Ctrl-C")] = False,
) -> None:
    """Print the end of a process's log."""
    from fedwarm.federation.processes import tail
    from fedwarm.federation.settings import load, refuse_remote

    found = load(federation)
    refuse_remote(found, federation, "its logs are where it runs")
    member = found.node(node)
    path = found.log(member)
    shown = path.stat().st_size if path.is_file() else 0
    put("\n".join(tail(found, member, lines)))
    while follow:
        shown = more(path, shown)
        time.sleep(FOLLOW_SECONDS)


def more(path: Path, shown: int) -> int:
    """Print what a file has beyond its first bytes; how many it has now."""
    from fedwarm.flower.processes import plain

    size = path.stat().st_size if path.is_file() else 0
    if size != shown:
        with path.open("rb") as stream:
            stream.seek(shown if size > shown else 0)
            text = stream.read()
        put(plain(text.decode("utf-8", "replace")).removesuffix("\n"))
        flush()
        return (shown if size > shown else 0) + len(text)
    return shown


@app.command()
def down(federation: Named = "default") -> None:
    """Stop all processes of a federation and its runs; keep its folder with keys, logs and runs."""
    from fedwarm.federation.bringup import down as bring_down
    from fedwarm.federation.settings import load

    ended = bring_down(federation, say)
    found = load(federation)
    put(f"federation {found.name}: {ended} of {len(found.members)} processes ran and have ended; {found.folder} stays")
