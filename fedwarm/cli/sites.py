"""Commands of a federation whose nodes are at sites of their own: its folder, a kit for each site, keys in and out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedwarm.cli.options import Named
from fedwarm.core.terminal import put, say

Site = Annotated[str, typer.Argument(help="name of the site, by which runs, ledger, pages and errors call it")]


def new(
    name: Annotated[str, typer.Argument(help="name of the federation, or path of its folder (with a slash in it)")],
    host: Annotated[str, typer.Option(help="name or IP address by which sites call this machine; it goes into the certificate")],
    port: Annotated[int, typer.Option(min=1, max=65535, help="port by which sites call")] = 8443,
    sites: Annotated[int, typer.Option(min=1, help="most sites that there may be")] = 8,
    listen: Annotated[
        str, typer.Option(help="address at which the SuperLink itself takes everybody; default: loopback, behind a proxy")
    ] = "",
) -> None:
    """Create the server's folder of a federation whose nodes are at sites of their own."""
    from fedwarm.federation.kits import PROXY, found
    from fedwarm.federation.settings import flag
    from fedwarm.node.kit import fingerprint

    made = found(name, host, port, sites, listen)
    assert made.authority is not None
    put(f"federation {made.name}: folder {made.folder}, sites call {made.outside}")
    put(f"  fingerprint of the CA, to be told by another way than the kits: {fingerprint(made.authority.read_bytes())}")
    put(f"  fedwarm federation up{flag(name)}")
    put(f"  fedwarm federation kit SITE{flag(name)}")
    if listen:
        put("  whoever reaches this port can start runs: Flower has no lock on it; let others in through a proxy only")
    else:
        put(f"  nginx -c {made.folder / PROXY}    # lets sites in, and nobody to what starts runs")


def kit(
    site: Site,
    federation: Named = "default",
    out: Annotated[Path | None, typer.Option(help="file of the kit; default SITE.zip in this folder")] = None,
    address: Annotated[str, typer.Option(help="HOST:PORT by which sites call the federation; default as before")] = "",
    sites: Annotated[int, typer.Option(min=0, help="most sites that there may be; 0: as before")] = 0,
) -> None:
    """Write a site's kit: one file without secrets, with which `fedwarm node join` makes the site's key at the site."""
    from fedwarm.federation.kits import make_kit

    made, file = make_kit(federation, site, out, address, sites)
    put(f"{file}: {made.site} is client {made.partition} of {made.partitions}, and calls {made.superlink}")
    put(f"  at the site: fedwarm node join {file.name} --data FOLDER")


def register(
    line: Annotated[str, typer.Argument(help="the line that `fedwarm node join` printed at the site, in quotes")],
    federation: Named = "default",
) -> None:
    """Let a site's node in by its public key; a new key of a known site replaces the old one."""
    from fedwarm.federation.kits import register as let_in

    let_in(federation, line, say)


def revoke(site: Site, federation: Named = "default") -> None:
    """Let a site's node in no more; a run that goes on continues without it."""
    from fedwarm.federation.kits import revoke as shut_out

    shut_out(federation, site, say)


def renew(federation: Named = "default") -> None:
    """Issue the SuperLink's certificate anew and start the SuperLink again; runs go on, and sites need nothing."""
    from fedwarm.federation.kits import renew as issue_anew

    issue_anew(federation, say)
