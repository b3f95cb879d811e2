"""Methods on real Flower processes: the local engine's model, and runs that outlive the processes they began on."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from fedwarm.engines.deployment.engine import run_deployment
from fedwarm.federation.bringup import down, up
from fedwarm.federation.preparing import Wanted
from fedwarm.federation.settings import load
from fedwarm.flower.writing import write_app
from fedwarm.launch.run import Request, run_method
from fedwarm.record import checkpoint
from fedwarm.settings.fields import Value
from tests.federation import loopback_federation
from tests.series import series_app
from tests.small import FAST, METHODS, alike, kept, text
from tests.waiting import wait_until

pytestmark = pytest.mark.processes


@pytest.mark.long
def test_a_method_on_superlink_and_supernodes(tmp_path: Path) -> None:
    """The same settings as on the local engine give the same model on plain SuperNodes, each message a fresh process."""
    settings = {**METHODS["fedavg"], "num-server-rounds": 1}
    out = tmp_path / "there"
    flat = {"method": "fedavg", **settings, "out": str(out), "client-folder": str(out / "clients")}
    with loopback_federation(tmp_path / "federation", nodes=2) as federation:
        outcome = federation.submit(write_app(tmp_path / "app", flat), {}, timeout_seconds=400)
        assert outcome.complaint() is None, federation.report(outcome)
    results = json.loads((out / "results.json").read_text())
    assert results["complete"] and results["partition"]["clients"] == 2
    here = run_method(Request("fedavg", "local", tmp_path / "here", clients=2, run_config=(text(settings),)))
    assert alike([out, here])


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The folder of a federation of two nodes."""
    said, told = str(tmp_path_factory.mktemp("federation") / "pair"), []  # type: str, list[str]
    try:
        up(said, Wanted(nodes=2, insecure=True), told.append)
        yield said
    finally:
        down(said, told.append)


def once(method: str) -> dict[str, Value]:
    """The method's small run, in one round."""
    return {**METHODS[method], "num-server-rounds": 1}


OTHERS = [method for method in METHODS if method != "fedavg"]
AT_ONCE = 3


@pytest.fixture(scope="module")
def deployed(nodes: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of each method on the federation, in a few apps at once: a node that has nothing to do asks every three seconds.

    Each message is a process of its own that was forked from what is loaded already.
    """
    place = tmp_path_factory.mktemp("deployed")
    states, parts = {"client-folder": str(place / "states")}, [OTHERS[n::AT_ONCE] for n in range(AT_ONCE)]
    runs = [{method: {**once(method), **states, "method": method, "seed": 3} for method in part} for part in parts]
    apps = [series_app(place / f"app-{n}", part) for n, part in enumerate(runs)]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for done in [pool.submit(run_deployment, load(nodes), app, {}) for app in apps]:
            done.result()
    return place


@pytest.mark.long
@pytest.mark.parametrize("method", OTHERS)
def test_every_method_on_a_federation(method: str, deployed: Path, tmp_path: Path) -> None:
    results = json.loads((deployed / method / "results.json").read_text())
    assert results["complete"] and results["partition"]["clients"] == 2 and results["engine"] == "deployment"
    here = run_method(Request(method, "local", tmp_path, 3, clients=2, run_config=(text(once(method)),)))
    assert alike([deployed / method, here])


def done(out: Path) -> int:
    """Stages that a run's checkpoint has."""
    index = out / checkpoint.FOLDER / checkpoint.INDEX
    return int(json.loads(index.read_text())["done"]) if index.exists() else 0


@pytest.mark.long
def test_a_run_and_its_personal_models_survive_the_end_of_all_processes(tmp_path: Path) -> None:
    """SuperLink and SuperNodes are ended in the second round; new ones, with other node ids, go on with it."""
    out = tmp_path / "run"
    flat = {"method": "local_only", **FAST, "out": str(out), "client-folder": str(tmp_path / "states")}
    with loopback_federation(tmp_path / "first", nodes=2) as federation:
        app = write_app(tmp_path / "app", flat)

        def submit() -> None:
            with suppress(Exception):
                federation.submit(app, {}, timeout_seconds=1000)

        threading.Thread(target=submit, daemon=True).start()
        wait_until(lambda: done(out) >= 2, 900)
    assert 2 <= done(out) < 4
    with loopback_federation(tmp_path / "second", nodes=2) as federation:
        outcome = federation.submit(write_app(tmp_path / "again", {**flat, "resume": True}), {}, timeout_seconds=300)
        assert outcome.complaint() is None, federation.report(outcome)
    here = run_method(Request("local_only", "local", tmp_path / "here", clients=2, run_config=(text(FAST),)))
    assert alike([out, here])


@pytest.mark.long
def test_a_supernode_that_is_killed_and_started_again_has_its_partition_back(tmp_path: Path) -> None:
    """Without keys it comes back under another id; Flower takes a minute to call the old one unavailable."""
    out = tmp_path / "run"
    flat = {"method": "fedavg", **FAST, "out": str(out), "client-folder": str(tmp_path / "states")}
    with loopback_federation(tmp_path / "federation", nodes=2) as federation, ThreadPoolExecutor(1) as pool:
        run_of = pool.submit(federation.submit, write_app(tmp_path / "app", flat), {}, timeout_seconds=1200)
        wait_until(lambda: done(out) >= 2, 900)
        federation.kill(1)
        federation.start("partition-id=1 num-partitions=2 site='site-b'")
        outcome = run_of.result()
    assert outcome.complaint() is None, federation.report(outcome)
    here = run_method(Request("fedavg", "local", tmp_path / "here", clients=2, run_config=(text(FAST),)))
    assert kept(out)["model.safetensors"] == kept(here)["model.safetensors"]
    entries = [json.loads(line) for line in (out / "ledger.jsonl").read_text().splitlines()]
    failed = [e for e in entries if e["failure"]]
    assert [e["client"] for e in failed] == [1] and failed[0]["stage"] in ("round", "evaluate")
    assert entries[-1]["client"] == 1 and entries[-1]["site"] == "site-b"
    assert any(f"the run is recorded on this machine, in {out}" in line for line in outcome.lines)
