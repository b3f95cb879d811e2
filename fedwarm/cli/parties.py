"""Commands of a federation whose parties stand apart: keys for each of them, and a federation elsewhere remembered."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedwarm.cli.options import Named
from fedwarm.core.terminal import put, say
from fedwarm.settings.fields import SettingError


def keys(
    folder: Annotated[
        Path, typer.Argument(help="output folder with one folder for each party; files that are there and valid are kept")
    ],
    nodes: Annotated[int, typer.Option(min=1, help="number of nodes, named node-0, node-1 and so on")] = 3,
    node: Annotated[list[str] | None, typer.Option(help="a node's name instead; may be given several times")] = None,
    address: Annotated[
        list[str] | None, typer.Option(help="name or IP address by which nodes call the federation; may be given several times")
    ] = None,
    name: Annotated[str, typer.Option(help="name of the federation in the CA's certificate")] = "default",
) -> None:
    """Create certificates and keys for containers or separate machines, with one folder for each party."""
    from fedwarm.federation.parties import ensure_parties

    names = node or [f"node-{number}" for number in range(nodes)]
    ensure_parties(folder, name, address or [], names)
    put(f"{folder}: for superlink, superexec, proxy, admin, {', '.join(names)}; the CA's key is in authority/")


def connect(
    federation: Named = "default",
    superlink: Annotated[
        str, typer.Option(help="HOST:PORT of the federation's SuperLink, or of a proxy of its control API")
    ] = "",
    ca: Annotated[Path | None, typer.Option(help="file of its CA's certificate", show_default=False)] = None,
    node: Annotated[
        list[str] | None, typer.Option(help="NAME=FILE: public key of a node that is let in; may be given several times")
    ] = None,
    wait: Annotated[float, typer.Option(min=0.0, help="most seconds until the SuperLink answers")] = 60.0,
) -> None:
    """Register a federation that runs elsewhere, to start runs on it and to admit nodes."""
    from fedwarm.core.failures import RunError
    from fedwarm.federation.remote import connect as connect_to
    from fedwarm.federation.settings import flag

    try:
        found = connect_to(federation, superlink, ca, dict(map(_key_of, node or [])), wait, say)
    except RunError as error:
        raise RunError(str(error)) from None
    named = ", ".join(each.name for each in found.nodes) or "none"
    put(f"federation {found.name}: SuperLink at {found.address}, nodes {named}")
    put(f"  fedwarm run fedavg --engine deployment{flag(federation)} --out FOLDER (the same folder where SuperExec runs)")


def _key_of(said: str) -> tuple[str, Path]:
    name, equals, file = said.partition("=")
    if not (name and equals and file):
        raise SettingError(f"--node {said!r} must be NAME=FILE, the node's name and the file of its public key")
    return name, Path(file)
