"""What each party of a federation needs of its secrets, in a folder of its own: for containers, and for machines apart.

authority/   the CA's key and certificate; belongs to no server and no node
superlink/   ca.crt, server.crt, server.key, superexec.secret
superexec/   ca.crt, superexec.secret
proxy/       ca.crt, server.crt, server.key: not the SuperLink's, so that its key stays where it is
admin/       ca.crt, and the nodes' public keys as NAME.pub
NODE/        ca.crt, and the node's private key (`key`) and public one
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from fedwarm.core.files import copy_file
from fedwarm.core.names import checked_host, checked_name
from fedwarm.federation.processes import SECRET
from fedwarm.federation.settings import SUPEREXEC, SUPERLINK
from fedwarm.flower.certificates import (
    ensure_authority,
    ensure_node_key,
    ensure_secret,
    ensure_server,
    public_file,
    write_private,
)
from fedwarm.flower.processes import LOOPBACK
from fedwarm.settings.fields import SettingError

AUTHORITY, PROXY, ADMIN, TRUST, KEY = "authority", "proxy", "admin", "ca.crt", "key"
RESERVED = (AUTHORITY, SUPERLINK, SUPEREXEC, PROXY, ADMIN)


def ensure_parties(root: Path, name: str, addresses: Sequence[str], nodes: Sequence[str], now: datetime | None = None) -> None:
    """See that all parties' folders below `root` are there and complete; what is there and serves stays.

    Args:
        root: holds the folders.
        name: of the federation; it stands in the CA's certificate.
        addresses: by which nodes and people call the proxy, or the SuperLink where there is none, from outside.
        nodes: their names, which are those that the SuperLink knows them by.
        now: the moment that certificates are judged by.

    Raises:
        SettingError: a name cannot be the federation's or a node's, an address is none, or a file that is there cannot be read.
        DiskError: a folder cannot be written to.
    """
    checked_name(name)
    addresses = [checked_host(each, "--address") for each in addresses]
    for node in nodes:
        checked_name(node)
        if node in RESERVED:
            raise SettingError(f"{node!r} cannot be a node's name; {', '.join(RESERVED)} are the servers'")
    moment = now or datetime.now(UTC)
    authority = ensure_authority(root / AUTHORITY, name, moment)
    local = [LOOPBACK, "localhost"]
    for server in (SUPERLINK, PROXY):
        ensure_server(root / server / "server", authority, list(dict.fromkeys([server, *local, *addresses])), moment)
    ensure_secret(root / SUPERLINK / SECRET)
    write_private(root / SUPEREXEC / SECRET, (root / SUPERLINK / SECRET).read_bytes())
    for node in nodes:
        ensure_node_key(root / node / KEY)
        copy_file(public_file(root / node / KEY), root / ADMIN / f"{node}.pub")
    for party in (SUPERLINK, SUPEREXEC, PROXY, ADMIN, *nodes):
        copy_file(root / AUTHORITY / TRUST, root / party / TRUST)
