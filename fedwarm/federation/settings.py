"""What a federation is made of and where it lies: its folder, its nodes, its ports, and which processes are its own.

The folder holds

    federation.json   this state, without secrets
    certificates/     CA and server certificate with their keys; keys/: the nodes' keys and SuperExec's secret (keys 0600)
    flower/           FLWR_HOME of the SuperLink and of the `flwr` command: its config.toml names the connection
    nodes/NAME/       FLWR_HOME and working directory of a node; bin/: what nodes start for every message
    clients/          sockets and logs of the templates that messages' processes are forked from, while there are any
    database/         what the SuperLink knows: registered keys, runs, messages that are on their way
    logs/             one file a process, the one before as NAME.log.1
    sites/            public keys of sites that were let in, one file a site; proxy.conf: for nginx in front of the SuperLink
    runs/             of runs that name no folder of their own
"""

from __future__ import annotations

import fcntl
import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from fedwarm.core.files import write_text
from fedwarm.core.names import address_of, checked_name
from fedwarm.flower.processes import LOOPBACK
from fedwarm.settings.fields import SettingError, near

DEFAULT, CONNECTION = "default", "federation"  # of federations; of the connection in Flower's config, where "default" is taken
SCHEMA, STATE, LOCK = 1, "federation.json", "lock"
SUPERLINK, SUPEREXEC = "superlink", "superexec"
CLIENTS = "clients"  # the folder of the sockets of templates (see `warm`)
ANYWHERE = {"0.0.0.0": LOOPBACK, "::": "::1"}  # all addresses of this machine, and the one by which it calls itself


@dataclass(frozen=True)
class Node:
    """One SuperNode.

    Attributes:
        name: its site's.
        partition: its number, counted from 0.
        port: the loopback port that its ClientApps call.
        data: the folder of its own data; empty where it is dealt some.
    """

    name: str
    partition: int
    port: int
    data: str = ""


@dataclass(frozen=True)
class Process:
    """A process that was started: its id is its own only as long as the time of its start is the same."""

    pid: int
    started: float
    version: str


@dataclass
class Federation:
    """All that is remembered of a federation.

    Args:
        name: of the federation.
        folder: holds everything of it.
        insecure: without TLS and node keys.
        cold: every message is answered by a process that loads torch and Flower itself (see `warm`).
        remote: its processes are on other machines or in containers; it is only called from here.
        host: the address that the SuperLink listens on.
        port: its port.
        key: drawn once; marks the federation's processes.
        nodes: in the order of their partitions.
        processes: those that were started last, by name.
        data: holds the folders of the nodes' own data; empty where they have none.
        outside: HOST:PORT by which sites call it, which run its nodes; empty: nodes are processes of this machine.
        sites: the names of sites that have a kit, in the order of their partitions.
        most_sites: how many there may be.
    """

    name: str
    folder: Path
    insecure: bool = False
    cold: bool = False
    remote: bool = False
    host: str = LOOPBACK
    port: int = 0
    key: str = field(default_factory=lambda: uuid.uuid4().hex)
    nodes: list[Node] = field(default_factory=list)
    processes: dict[str, Process] = field(default_factory=dict)
    data: str = ""
    outside: str = ""
    sites: list[str] = field(default_factory=list)
    most_sites: int = 0

    @property
    def members(self) -> list[str]:
        """The names of all processes, in the order of their start."""
        return [SUPERLINK, SUPEREXEC, *(node.name for node in self.nodes)]

    @property
    def reach(self) -> str:
        """The host by which this machine calls the SuperLink."""
        return ANYWHERE.get(self.host, self.host)

    @property
    def address(self) -> str:
        return address_of(self.reach, self.port)

    @property
    def flag(self) -> str:
        """The option that names it, with a blank before it; nothing for the default one."""
        return flag(self.name if self.folder == home() / self.name else str(self.folder))

    @property
    def flower(self) -> Path:
        """FLWR_HOME of whoever talks to the SuperLink."""
        return self.folder / "flower"

    @property
    def authority(self) -> Path | None:
        """The CA's certificate; None where there is no TLS."""
        return None if self.insecure else self.folder / "certificates" / "ca.crt"

    def key_file(self, node: str) -> Path:
        """A node's private key; the public one has `.pub` behind its name."""
        return self.folder / "keys" / node

    def log(self, member: str) -> Path:
        return self.folder / "logs" / f"{member}.log"

    def mark(self, member: str) -> str:
        """What a member's processes carry in their environment."""
        return f"{self.key}.{member}"

    @property
    def marks(self) -> list[str]:
        """What all processes of the federation carry."""
        return [*map(self.mark, self.members), self.templates]

    @property
    def templates(self) -> str:
        """What templates carry, and the processes that they fork for messages: no member's mark, whatever its name."""
        return self.mark("")

    def node(self, said: str) -> str:
        """The member that a person means by its name or a node's partition.

        Raises:
            SettingError: there is none.
        """
        by_partition = {str(node.partition): node.name for node in self.nodes}
        found = said if said in self.members else by_partition.get(said, said)
        if found not in self.members:
            all_ = ", ".join(self.members)
            raise SettingError(f"federation {self.name!r} has no {said!r}{near(said, self.members)}; it has {all_}")
        return found

    def save(self) -> None:
        """Write the state, and the connection for the `flwr` command."""
        state = {"schema": SCHEMA, **asdict(self)}
        del state["folder"]
        write_text(self.folder / STATE, json.dumps(state, indent=1) + "\n")
        how = "insecure = true" if self.insecure else f"root-certificates = {json.dumps(str(self.authority))}"
        place = f"[superlink.{CONNECTION}]\naddress = {json.dumps(self.address)}\n{how}\n"
        write_text(self.flower / "config.toml", f'[superlink]\ndefault = "{CONNECTION}"\n\n{place}')


def home() -> Path:
    """Where federations lie that are named and not given as a folder: below the user's data folder, as keys are no cache."""
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "fedwarm" / "federations"


def folder_of(said: str) -> Path:
    """The folder of a federation that a person named; what has a slash in it is a folder's path.

    Raises:
        SettingError: this can be no name.
    """
    path = Path(said).expanduser().absolute() if os.sep in said else home() / said
    checked_name(path.name)
    return path


def load(said: str) -> Federation:
    """The federation of a name or folder.

    Raises:
        SettingError: there is none, or what is there cannot be read.
    """
    folder = folder_of(said)
    if not (folder / STATE).is_file():
        known = sorted(path.parent.name for path in home().glob(f"*/{STATE}"))
        others = f" (there are {', '.join(known)})" if known else ""
        raise SettingError(f"there is no federation {said!r}{others}; `fedwarm federation up{flag(said)}` starts one")
    try:
        state = json.loads((folder / STATE).read_text(encoding="utf-8"))
        if state.pop("schema") != SCHEMA:
            raise SettingError(f"{folder / STATE} is of another version of fedwarm; end it with that one")
        nodes = [Node(**node) for node in state.pop("nodes")]
        processes = {name: Process(**each) for name, each in state.pop("processes").items()}
        return Federation(folder=folder, nodes=nodes, processes=processes, **state)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, SettingError):
            raise
        raise SettingError(f"{folder / STATE} cannot be read ({error}); remove {folder} and start the federation anew") from None


def refuse_remote(federation: Federation, said: str, why: str) -> None:
    """Refuse what only a federation of this machine's processes can do.

    Raises:
        SettingError: it runs elsewhere.
    """
    if federation.remote:
        raise SettingError(f"federation {said!r} runs elsewhere ({federation.address}); {why}")


def flag(said: str) -> str:
    """The option that names a federation, with a blank before it; nothing for the default one."""
    return "" if said == DEFAULT else f" --federation {said}"


def refuse_used(folder: Path) -> None:
    """Refuse a folder for a new federation that holds anything else: it becomes readable by its owner alone.

    Raises:
        SettingError: it does.
    """
    if folder.is_dir() and any(each.name != LOCK for each in folder.iterdir()):
        raise SettingError(f"{folder} holds other files, and a federation's folder is its own; name one that is new or empty")


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Only one command at a time starts or ends a federation's processes.

    Raises:
        SettingError: another one is at it.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (folder / LOCK).open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SettingError(f"another command is starting or ending the federation in {folder}; wait for it") from None
        yield
