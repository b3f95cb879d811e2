"""What happens to machines, on a federation of real processes with TLS and node keys: who is left out, refused, or back.

Three nodes. A run that loses one in a round goes on, its ledger names the site, and its model is bit for bit that of a run which
asked only the others in that round. Twenty nodes at the end.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from fedwarm.federation import processes
from fedwarm.federation.bringup import down, up
from fedwarm.federation.control import control
from fedwarm.federation.preparing import Wanted
from fedwarm.federation.processes import end, living
from fedwarm.federation.settings import SUPERLINK, Federation, Node, load
from fedwarm.federation.status import status
from fedwarm.flower.processes import Daemon, free_ports
from fedwarm.launch.run import Request, run_method
from fedwarm.record.checkpoint import exists
from fedwarm.record.checkpoint import load as checkpoint
from tests.runs import same
from tests.waiting import wait_until

until = partial(wait_until, seconds=300, poll_seconds=0.1)
pytestmark = [pytest.mark.alone, pytest.mark.proof]
SETTINGS = "local-epochs=1 data.max-examples=60"
AHEAD = """
import sys
from datetime import timedelta
from flwr.supercore import date

true = date.now
date.now = lambda: true() + timedelta(hours=1)
from fedwarm.node.supernode import main

main(sys.argv[1:])
"""


@contextmanager
def standing(said: Path, nodes: int) -> Iterator[Federation]:
    try:
        yield up(str(said), Wanted(nodes=nodes), lambda line: None)
    finally:
        down(str(said), lambda line: None)


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    with standing(tmp_path_factory.mktemp("proofs") / "three", 3) as made:
        yield made


@pytest.fixture(autouse=True)
def whole_again(federation: Federation) -> Iterator[None]:
    """Whatever a test did to a node, the next one finds it online."""
    yield
    up(str(federation.folder), Wanted(), lambda line: None)


def here(out: Path, settings: str, rounds: int = 1) -> dict[str, Any]:
    """A run on the local engine."""
    request = Request("fedavg", "local", out, 3, rounds, clients=3, run_config=(f"{SETTINGS} {settings}",))
    return json.loads((run_method(request) / "results.json").read_text())  # type: ignore[no-any-return]


@contextmanager
def there(out: Path, federation: Federation, settings: str = "", rounds: int = 1) -> Iterator[subprocess.Popen[str]]:
    """A run on the federation that goes on while the block does something; it must end well."""
    words = [str(Path(sys.executable).parent / "fedwarm"), "run", "fedavg", "--engine", "deployment", "--out", str(out)]
    how = ["--federation", str(federation.folder), "--seed", "3", "--rounds", str(rounds), "-c", f"{SETTINGS} {settings}"]
    running = subprocess.Popen([*words, *how], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    try:
        yield running
        _, told = running.communicate(timeout=600)
        assert running.returncode == 0, told
    finally:
        running.kill()


def ledger(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "ledger.jsonl").read_text().splitlines()]


def model(out: Path) -> dict[str, Any]:
    return load_file(out / "model.safetensors")


def works(federation: Federation, node: str) -> bool:
    """Whether a node has a ClientApp at work, which is the second one after the question who it is."""
    return any(line.endswith("train 1/1") or "Receiving: train message" in line for line in processes.tail(federation, node, 400))


def left_out(out: Path, site: str) -> list[str]:
    """The failures that a run's ledger has, all of one site."""
    failed = [each for each in ledger(out) if each["failure"]]
    assert failed and {each["site"] for each in failed} == {site}, failed
    return [each["failure"] for each in failed]


@pytest.mark.parametrize(
    ("how", "seconds", "told"),
    [(signal.SIGKILL, 240, "Node Unavailable"), (signal.SIGSTOP, 45, "no reply within 45 s")],
    ids=["killed", "paused past the deadline"],
)
def test_a_node_that_is_lost_in_a_round_is_left_out_and_named(
    how: signal.Signals, seconds: int, told: str, federation: Federation, tmp_path: Path
) -> None:
    present = load(str(federation.folder))
    log = federation.log("node-2")
    before = log.stat().st_size
    with there(tmp_path / "there", federation, f"stage-timeout={seconds} min-replies=2 nodes.return-timeout=1"):
        until(lambda: b"train" in log.read_bytes()[before:])
        family = [living(present, "node-2"), *living(present, "node-2").children(recursive=True)]  # type: ignore[union-attr]
        for each in family:
            with suppress(ProcessLookupError):
                os.kill(each.pid, how)  # type: ignore[union-attr]
    try:
        assert all(told in why for why in left_out(tmp_path / "there", "node-2"))
        here(tmp_path / "here", "faults.kind='crash' faults.clients='2' faults.rate=1.0 min-replies=2")
        assert same(model(tmp_path / "there"), model(tmp_path / "here"))
    finally:
        if how is signal.SIGSTOP:
            for each in family:
                if each is not None and each.is_running():
                    each.send_signal(signal.SIGCONT)


def test_a_node_with_a_full_disk_is_left_out_and_named(federation: Federation, tmp_path: Path) -> None:
    """A device of 100 kB for what the client keeps; SCAFFOLD keeps its control variate."""
    place = tmp_path / "full"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100k", "none", str(place)], capture_output=True).returncode:
        pytest.skip("a small disk needs the right to mount")
    try:
        with replaced(federation, "node-2", f' client-folder="{place}"'):
            out = tmp_path / "there"
            request = Request(
                "scaffold", "deployment", out, 3, 1, run_config=(f"{SETTINGS} min-replies=2",), federation=str(federation.folder)
            )
            run_method(request)
            assert all("cannot be written" in why and "make room" in why for why in left_out(out, "node-2"))
    finally:
        subprocess.run(["umount", str(place)], check=True)


@contextmanager
def replaced(federation: Federation, node: str, config: str = "", env: dict[str, str] | None = None) -> Iterator[Daemon]:
    """The node, ended and started with more in its node config or environment, and online where it can be."""
    present = load(str(federation.folder))
    end(present, [node])
    words = processes.command(present, node)
    words[words.index("--node-config") + 1] += config
    changed = {**processes.member_environment(present, node), **(env or {})}
    place = federation.folder / "nodes" / node
    with Daemon(words, log=place / "log", folder=place, env=changed, mark=federation.mark(node)) as daemon:
        until(lambda: not daemon.alive or online(federation, node))
        yield daemon


def online(federation: Federation, node: str) -> bool:
    with control(federation) as link:
        return any(each.name == node and each.status == "online" for each in link.nodes())


def offline(federation: Federation, node: str) -> bool:
    return not online(federation, node)


def test_a_clock_that_is_an_hour_off_is_refused_and_the_run_goes_on(federation: Federation, tmp_path: Path) -> None:
    """Flower's own clock in the node's process is an hour ahead (libfaketime 0.9.10 breaks the waits of Python 3.11)."""
    present = load(str(federation.folder))
    end(present, ["node-2"])
    until(lambda: offline(federation, "node-2"))
    own = processes.command(present, "node-2")[len(processes.SUPERNODE) :]
    words, env = [sys.executable, "-P", "-c", AHEAD, *own], processes.member_environment(present, "node-2")
    place = federation.folder / "nodes" / "node-2"
    with Daemon(words, log=place / "log", folder=place, env=env, mark=federation.mark("node-2")) as daemon:
        until(lambda: not daemon.alive)
        told = "\n".join(daemon.tail(1000))
    assert "refused this node (HTTP 401)" in told and "this clock is more than 5 s ahead" in told, told
    with there(tmp_path / "there", federation, "nodes.least=2 nodes.gather-timeout=30"):
        pass
    assert {each["site"] for each in ledger(tmp_path / "there")} == {"node-0", "node-1"}
    results = json.loads((tmp_path / "there" / "results.json").read_text())
    assert any("began without" in note for note in results["notes"])


def test_a_revoked_key_ends_the_node_and_the_run_goes_on(federation: Federation, tmp_path: Path) -> None:
    present = load(str(federation.folder))
    node = living(present, "node-2")
    assert node is not None
    with control(federation) as link:
        (seen,) = (each for each in link.nodes() if each.name == "node-2")
        link.unregister(seen.node_id)
    try:
        node.wait(120)
        assert any("refused this node (HTTP 401)" in line for line in processes.tail(federation, "node-2", 50))
        with there(tmp_path / "there", federation, "nodes.least=2 nodes.gather-timeout=30"):
            pass
        assert {each["site"] for each in ledger(tmp_path / "there")} == {"node-0", "node-1"}
    finally:
        for file in ("node-2", "node-2.pub"):  # a key is not taken twice: the node gets a new one
            (federation.folder / "keys" / file).unlink()


def test_a_registered_node_that_claims_anothers_partition_is_refused(federation: Federation, tmp_path: Path) -> None:
    """node-2 says that it is partition 0: by the setting, and by who was there first in a run that goes on."""
    with replaced(federation, "node-2"):
        pass
    present = load(str(federation.folder))
    until(lambda: offline(federation, "node-2"))
    impostor = replace(present, nodes=[*present.nodes[:2], Node("node-2", 0, *free_ports(1))])
    words, env = processes.command(impostor, "node-2"), processes.member_environment(impostor, "node-2")
    words[words.index("--node-config") + 1] = 'site="node-0" partition-id=0 num-partitions=3'
    place = federation.folder / "nodes" / "node-2"
    with Daemon(words, log=place / "log", folder=place, env=env, mark=federation.mark("node-2")):
        until(lambda: online(federation, "node-2"))
        bound = "nodes.least=2 nodes.gather-timeout=30 nodes.partitions='node-0=0,node-1=1,node-2=2'"
        with there(tmp_path / "there", federation, bound):
            pass
    assert {each["site"] for each in ledger(tmp_path / "there")} == {"node-0", "node-1"}
    notes = " ".join(json.loads((tmp_path / "there" / "results.json").read_text())["notes"])
    assert "node-2" in notes and "partition" in notes


def test_a_node_that_is_back_in_time_costs_nothing(federation: Federation, tmp_path: Path) -> None:
    """Killed between rounds and started again by hand: the stage waits for it, under its id, with its state."""
    out, present = tmp_path / "there", load(str(federation.folder))
    with there(out, federation, "min-replies=3 nodes.return-timeout=240", rounds=2):
        until(lambda: exists(out) and checkpoint(out).done >= 2)
        node = living(present, "node-1")
        assert node is not None
        node.kill()
        up(str(federation.folder), Wanted(), lambda line: None)
    here(tmp_path / "here", "min-replies=3", rounds=2)
    assert same(model(out), model(tmp_path / "here"))


def test_twenty_nodes(tmp_path: Path) -> None:
    """Five rounds of a tiny model; the SuperLink's memory stays flat from the first to the last."""
    with standing(tmp_path / "twenty", 20) as federation:
        link, out, seen = living(federation, SUPERLINK), tmp_path / "run", dict[int, int]()
        assert link is not None and status(federation).well
        tiny = "model.name='logistic' data.image-size=8 data.partition='iid'"
        with there(out, federation, tiny, rounds=5) as running:
            while running.poll() is None:
                if exists(out):
                    seen.setdefault(checkpoint(out).done, link.memory_info().rss)
                time.sleep(0.2)
        entries = [each for each in ledger(out) if each["stage"] == "round"]
        assert len(entries) == 100 and not any(each["failure"] for each in entries)
        early, late = seen[min(seen)], max(seen.values())
        assert late < 1.25 * early, seen
