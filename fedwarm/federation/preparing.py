"""What a federation needs before anything of it runs: ports that are free, certificates, keys, folders."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fedwarm.federation.kits import equip
from fedwarm.federation.processes import SECRET, living
from fedwarm.federation.settings import (
    ANYWHERE,
    CLIENTS,
    STATE,
    SUPEREXEC,
    SUPERLINK,
    Federation,
    Node,
    flag,
    folder_of,
    load,
    refuse_remote,
    refuse_used,
)
from fedwarm.federation.sites import site_folders
from fedwarm.flower.certificates import ensure_certificates, ensure_node_key, ensure_secret
from fedwarm.flower.processes import LOOPBACK, free_ports
from fedwarm.node.messages import script, write
from fedwarm.settings.fields import SettingError

NODES = 3


@dataclass(frozen=True)
class Wanted:
    """What `federation up` was asked; what is left out (0, None, empty) is as it was before, or as it comes."""

    nodes: int = 0
    insecure: bool | None = None
    host: str = ""
    patience_seconds: float = 0.0
    data: str = ""
    cold: bool | None = None


def prepare(said: str, wanted: Wanted) -> Federation:
    """The federation as it is wanted, with its folder, ports, certificates and keys; nothing runs yet.

    Raises:
        SettingError: something that was asked for cannot be.
    """
    folder = folder_of(said)
    known = (folder / STATE).is_file()
    if not known:
        refuse_used(folder)
    federation = load(said) if known else Federation(folder.name, folder, insecure=bool(wanted.insecure))
    refuse_remote(federation, said, "start it there, or name another by --federation")
    if wanted.insecure not in (None, federation.insecure):
        how = "without" if federation.insecure else "with"
        raise SettingError(f"federation {said!r} was made {how} TLS and keys, and stays so; name another, or remove {folder}")
    host, sites = wanted.host or federation.host, _sites(federation, wanted)
    if federation.insecure and host != LOOPBACK:
        raise SettingError(f"--host {host} with --insecure would let everybody in; without TLS and keys it must be {LOOPBACK}")
    before = [(node.name, node.data) for node in federation.nodes]
    changed = known and (host, sites) != (federation.host, before)
    if changed and any(living(federation, member) for member in federation.members):
        here = f"{len(federation.nodes)} nodes at {federation.host}"
        raise SettingError(f"federation {said!r} is up with {here}; `fedwarm federation down{flag(said)}` comes first")
    federation.host, federation.data = host, str(Path(wanted.data).expanduser().absolute()) if wanted.data else federation.data
    federation.cold = federation.cold if wanted.cold is None else wanted.cold
    _assign(federation, sites)
    _equip(federation)
    federation.save()
    return federation


def _sites(federation: Federation, wanted: Wanted) -> list[tuple[str, str]]:
    """The name of each node, and the folder of its own data, empty where it has none.

    Raises:
        SettingError: there can be no such nodes.
    """
    if federation.outside:
        if wanted.nodes or wanted.data or wanted.host or wanted.insecure:
            raise SettingError("its nodes are at their sites; leave out --nodes, --data, --host and --insecure")
        return []
    data = str(Path(wanted.data).expanduser().absolute()) if wanted.data else ""
    if data or federation.data:
        found = [(each.name, str(each)) for each in site_folders(data)] if data else [(n.name, n.data) for n in federation.nodes]
        if wanted.nodes not in (0, len(found)):
            raise SettingError(
                f"--nodes {wanted.nodes}, but {data or federation.data} has data for {len(found)} nodes; leave --nodes out"
            )
        return found
    count = wanted.nodes or len(federation.nodes) or NODES
    if count < 1:
        raise SettingError(f"--nodes {count} is out of range; it must be at least 1")
    names = [node.name for node in federation.nodes[:count]]
    return [(name, "") for name in (*names, *(f"node-{partition}" for partition in range(len(names), count)))]


def _assign(federation: Federation, sites: Sequence[tuple[str, str]]) -> None:
    """Give everybody that does not run a port that is free; one that was had before stays if it can."""
    present = {member for member in federation.members if living(federation, member) is not None}
    if SUPERLINK not in present and not _free(federation.host, federation.port):
        if federation.outside and federation.host != LOOPBACK:
            raise SettingError(f"port {federation.port}, by which sites call, is taken; `ss -ltnp` names the process; end it")
        if federation.port and present - {SUPEREXEC}:
            raise SettingError(
                f"port {federation.port} of the SuperLink is taken by another process, and nodes that run look for it there; "
                f"end that process (`ss -ltnp` tells which), or all nodes by `fedwarm federation down{federation.flag}`"
            )
        federation.port = _new_ports(federation, 1)[0]
    before, spare = {node.partition: node for node in federation.nodes}, _new_ports(federation, len(sites))
    federation.nodes = []
    for partition, (name, data) in enumerate(sites):
        node, port = before.get(partition), spare[partition]
        if node is not None and (node.name in present or _free(LOOPBACK, node.port)):
            port = node.port
        federation.nodes.append(Node(name, partition, port, data))


def _new_ports(federation: Federation, count: int) -> list[int]:
    """Free ones that the federation has not kept for one of its own."""
    kept = {federation.port, *(node.port for node in federation.nodes)}
    return [port for port in free_ports(count + len(kept)) if port not in kept][:count]


def _free(host: str, port: int) -> bool:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OverflowError as error:
            raise SettingError(f"port {port} is out of range; give 1 to 65535") from error
        except OSError as error:
            if isinstance(error, socket.gaierror) or "assign" in str(error):
                raise SettingError(
                    f"--host {host} is not an address of this machine ({error.strerror}); give one of its own, e.g. 127.0.0.1"
                ) from None
            return False
    return port != 0


def _equip(federation: Federation) -> None:
    """See that the folder holds what the processes need."""
    federation.folder.mkdir(parents=True, exist_ok=True)
    federation.folder.chmod(0o700)
    for name in ("certificates", "keys", "flower", "nodes", "database", "logs"):
        (federation.folder / name).mkdir(exist_ok=True, mode=0o700)
    write(federation.folder / "bin", script(federation.folder / CLIENTS, federation.templates, federation.cold))
    ensure_secret(federation.folder / "keys" / SECRET)
    if federation.insecure:
        return
    if federation.outside:
        equip(federation)
        return
    own = [socket.gethostname()] if federation.host in ANYWHERE else []
    addresses = list(dict.fromkeys([LOOPBACK, "localhost", federation.reach, *own]))
    ensure_certificates(federation.folder / "certificates", federation.name, addresses)
    for node in federation.nodes:
        ensure_node_key(federation.key_file(node.name))
