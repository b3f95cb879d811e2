"""A federation of real processes on loopback, for tests: a SuperLink, N SuperNodes, each with a home of its own, no encryption.

    with loopback_federation(tmp_path / "federation", nodes=2) as federation:
        outcome = federation.submit(app_folder, {"out": str(tmp_path / "out")}, timeout_seconds=120)
        assert outcome.complaint() is None, federation.report(outcome)

Every message starts a process on its node, so a round takes seconds even where nothing is computed.
`write_tiny` writes a module with a ServerApp and a ClientApp that need numpy alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from fedwarm.flower.family import family
from fedwarm.flower.outcome import Outcome
from fedwarm.flower.processes import LOOPBACK, Daemon, ending_on_signals, environment, executable, free_ports, superlink
from fedwarm.flower.submitting import submit

Value = str | int | float | bool

TINY = """
import json
import os
from pathlib import Path

import numpy as np
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg

server = ServerApp()
client = ClientApp()


@server.main()
def main(grid, context):
    folder = Path(context.run_config["out"])
    seen = {"config": dict(context.run_config), "env": dict(os.environ), "here": os.listdir()}
    (folder / "seen.json").write_text(json.dumps(seen))
    if context.run_config["fails"] == "server":
        raise ValueError("the server was told to fail")
    strategy = FedAvg(min_available_nodes=2, fraction_evaluate=0.0)
    result = strategy.start(grid, ArrayRecord([np.zeros(3)]), num_rounds=1)
    for array in result.arrays.to_numpy_ndarrays():
        np.save(folder / "result.npy", array)


@client.train()
def train(message, context):
    if context.run_config["fails"] == "client":
        raise ValueError("the client was told to fail")
    value = float(context.node_config["partition-id"] + 1)
    content = {"arrays": ArrayRecord([np.full(3, value)]), "metrics": MetricRecord({"num-examples": 1})}
    return Message(RecordDict(content), reply_to=message)
"""


def write_tiny(folder: Path) -> None:
    """Write `tiny.py` with `server` and `client`: one round of FedAvg in which client i sends three times i + 1.

    Its config needs `out`, a folder for `seen.json` and `result.npy`, and `fails`: "server", "client" or empty.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tiny.py").write_text(TINY, encoding="utf-8")


@dataclass(frozen=True)
class Federation:
    """Its processes; `submit` runs an app on them, `start` starts one more SuperNode, which ends with the others."""

    superlink: Daemon
    nodes: tuple[Daemon, ...]
    start: Callable[[str], Daemon]

    def kill(self, index: int) -> None:
        """End a SuperNode and all that it started as a power cut does."""
        process = self.nodes[index]._process
        assert process is not None
        for each in family([psutil.Process(process.pid)], [self.nodes[index].mark]):
            each.kill()

    def submit(self, app_folder: Path, overrides: Mapping[str, Value], timeout_seconds: float) -> Outcome:
        """Run an app with `flwr run --stream`: its status and its log (RunError if refused or too slow)."""
        return submit(app_folder, overrides, env=self.superlink.env, timeout_seconds=timeout_seconds)

    def report(self, outcome: Outcome | None = None) -> str:
        """What the run, the SuperLink and the nodes said last, for the message of a failed assertion."""
        parts = [("run", list(outcome.lines[-40:]))] if outcome else []
        parts += [(each.log.stem, each.tail(40)) for each in (self.superlink, *self.nodes)]
        return "\n".join(line for name, lines in parts for line in (f"--- {name}", *lines))


@contextmanager
def loopback_federation(folder: Path, nodes: int) -> Iterator[Federation]:
    """Start a SuperLink and `nodes` SuperNodes with partitions 0 to nodes - 1 below `folder`; at the end of the block all end.

    Yields when every node has registered.
    """
    with ending_on_signals(), ExitStack() as stack:
        bytecode = folder / "bytecode"
        link, port = stack.enter_context(superlink(folder / "superlink", simulation=False, bytecode=bytecode))
        numbers = count()

        def start(node_config: str) -> Daemon:
            (own,) = free_ports(1)
            env = environment(folder / f"node-{next(numbers)}", bytecode)
            return stack.enter_context(_supernode(env, port, own, node_config))

        members = tuple(start(f"partition-id={index} num-partitions={nodes}") for index in range(nodes))
        for each in members:
            each.wait_until(partial(_registered, each.log))
        yield Federation(link, members, start)


def _registered(log: Path) -> bool:
    return "SuperNode ID" in log.read_text(encoding="utf-8")


def _supernode(env: Mapping[str, str], superlink_port: int, own_port: int, node_config: str) -> Daemon:
    home = Path(env["FLWR_HOME"])
    empty = home / "work"
    empty.mkdir(parents=True)
    addresses = ["--superlink", f"{LOOPBACK}:{superlink_port}", "--host", LOOPBACK, "--port", str(own_port)]
    return Daemon(
        [executable("flower-supernode"), "--insecure", *addresses, "--node-config", node_config],
        log=home / f"{home.name}.log",
        folder=empty,
        env=env,
    )
