"""One app, three engines: the same model from the local engine and from Ray, and methods on real Flower processes."""

from __future__ import annotations

import hashlib
import json
import random
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
from flwr.app import Message

from fedwarm.engines.local.run import LocalGrid, run_local
from fedwarm.flower.app import FlowerApp
from fedwarm.flower.writing import write_app
from fedwarm.launch.run import Request, run_method
from fedwarm.record import checkpoint
from fedwarm.rounds import arrivals
from fedwarm.settings import kinds
from fedwarm.settings.fields import Value
from tests.federation import Federation, loopback_federation
from tests.runs import SMALL_WARMFED, run

FAST: dict[str, Value] = {"num-server-rounds": 2, "local-epochs": 1, "data.max-examples": 40}


def text(settings: dict[str, Value]) -> str:
    return " ".join(f"{key}={json.dumps(value)}" for key, value in settings.items())


OWN: dict[str, dict[str, Value]] = {
    "fedavg": {**FAST, "robust.rule": "trimmed_mean", "robust.clip-norm": 2.0},
    "scaffold": {**FAST, "fraction-train": 0.5},
    "quantization_robust": {**FAST, "quantization-robust.variant": "qat", "quantization-robust.range": "learned"},
    "dp_rec": {**FAST, "dp-rec.bits": 3, "dp-rec.entropy": "seeded", "dp-rec.downlink": "replay"},
    "gen_fedsd": {**FAST, "gen-fedsd.steps": 2, "gen-fedsd.cap": 0.5},
    "warmfed": SMALL_WARMFED,
}
METHODS: dict[str, dict[str, Value]] = {name: OWN.get(name, FAST) for name in kinds.METHODS}


def kept(folder: Path) -> dict[str, str]:
    """A digest of each file of tensors that a run leaves: models, adapters, pictures, its checkpoint; not what clients keep."""
    found = (path for path in folder.rglob("*.safetensors") if "clients" not in path.relative_to(folder).parts)
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def alike(folders: list[Path]) -> bool:
    """Whether runs left the same files, and the same accuracies."""
    results = [json.loads((folder / "results.json").read_text()) for folder in folders]
    assert all(r["final"] == results[0]["final"] for r in results)
    assert all(r["totals"]["bytes_up"] == results[0]["totals"]["bytes_up"] for r in results)
    return all(kept(folder) == kept(folders[0]) for folder in folders)


RAY = [method if method in ("fedavg", "warmfed") else pytest.param(method, marks=pytest.mark.long) for method in METHODS]
NODES = [pytest.param(m, marks=[] if m == "fedavg" else pytest.mark.long) for m in METHODS]


@pytest.mark.alone
@pytest.mark.parametrize("method", RAY)
def test_workers_and_ray_give_the_same_model_bit_for_bit(method: str, tmp_path: Path) -> None:
    cases = {"one": ("local", 1), "two": ("local", 2), "ray": ("ray", 0)}
    folders = [
        run_method(Request(method, engine, tmp_path / name, 3, None, 2, workers, run_config=(text(METHODS[method]),)))
        for name, (engine, workers) in cases.items()
    ]
    assert alike(folders)
    assert [json.loads((f / "results.json").read_text())["engine"] for f in folders] == ["local", "local", "ray"]


@pytest.mark.parametrize("method", METHODS)
def test_the_order_of_arrival_does_not_matter(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a grid that only sends and pulls, and on which replies turn up when they like."""
    settings = {"server-threads": 1, **METHODS[method]}
    whole = run(method, tmp_path / "whole", settings)
    draws, original = random.Random(7), LocalGrid.pull_messages

    def late(grid: LocalGrid, message_ids: Iterable[str]) -> Iterable[Message]:
        return original(grid, message_ids) if draws.random() < 0.3 else []

    monkeypatch.setattr(LocalGrid, "stream", None)
    monkeypatch.setattr(LocalGrid, "pull_messages", late)
    monkeypatch.setattr(arrivals, "POLL_SECONDS", 0.0)
    for workers in (1, 2):
        flat = {"method": method, **settings, "out": str(tmp_path / f"{workers}"), "client-folder": str(tmp_path / f"c{workers}")}
        app = FlowerApp("fedwarm.strategies.server_app:app", "fedwarm.clients.client_app:app", flat, None)
        run_local(app, {}, clients=4, workers=workers)
    assert alike([whole.folder, tmp_path / "1", tmp_path / "2"])


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    with loopback_federation(tmp_path_factory.mktemp("federation"), nodes=2) as found:
        yield found


@pytest.mark.alone
@pytest.mark.parametrize("method", NODES)
def test_a_method_on_superlink_and_supernodes(method: str, federation: Federation, tmp_path: Path) -> None:
    """The same settings as on the local engine give the same model on two SuperNodes, each message a process of its own."""
    settings = {**METHODS[method], "num-server-rounds": 1}
    out = tmp_path / "there"
    flat = {"method": method, **settings, "out": str(out), "client-folder": str(out / "clients")}
    outcome = federation.submit(write_app(tmp_path / "app", flat), {}, timeout_seconds=400)
    assert outcome.complaint() is None, federation.report(outcome)
    results = json.loads((out / "results.json").read_text())
    assert results["complete"] and results["partition"]["clients"] == 2
    here = run_method(Request(method, "local", tmp_path / "here", clients=2, run_config=(text(settings),)))
    assert alike([out, here])


def done(out: Path) -> int:
    """Stages that a run's checkpoint has."""
    index = out / checkpoint.FOLDER / checkpoint.INDEX
    return int(json.loads(index.read_text())["done"]) if index.exists() else 0


@pytest.mark.alone
@pytest.mark.long
def test_a_run_and_its_personal_models_survive_the_end_of_all_processes(tmp_path: Path) -> None:
    """SuperLink and SuperNodes are ended in the second round; new ones, with other node ids, go on with it."""
    settings: dict[str, Value] = {**FAST, "num-server-rounds": 3}
    out = tmp_path / "run"
    flat = {"method": "local_only", **settings, "out": str(out), "client-folder": str(tmp_path / "states")}
    with loopback_federation(tmp_path / "first", nodes=2) as federation, suppress(Exception):
        app = write_app(tmp_path / "app", flat)

        def submit() -> None:
            with suppress(Exception):
                federation.submit(app, {}, timeout_seconds=300)

        threading.Thread(target=submit, daemon=True).start()
        deadline = time.monotonic() + 200
        while done(out) < 2 and time.monotonic() < deadline:
            time.sleep(0.2)
    assert 2 <= done(out) < 6
    with loopback_federation(tmp_path / "second", nodes=2) as federation:
        outcome = federation.submit(write_app(tmp_path / "again", {**flat, "resume": True}), {}, timeout_seconds=300)
        assert outcome.complaint() is None, federation.report(outcome)
    here = run_method(Request("local_only", "local", tmp_path / "here", clients=2, run_config=(text(settings),)))
    assert alike([out, here])


@pytest.mark.alone
@pytest.mark.long
def test_a_supernode_that_is_killed_and_started_again_has_its_partition_back(tmp_path: Path) -> None:
    """Without keys it comes back under another id; Flower takes a minute to call the old one unavailable."""
    out, settings = tmp_path / "run", {**FAST, "num-server-rounds": 3}
    flat = {"method": "fedavg", **settings, "out": str(out), "client-folder": str(tmp_path / "states")}
    with loopback_federation(tmp_path / "federation", nodes=2) as federation, ThreadPoolExecutor(1) as pool:
        run_of = pool.submit(federation.submit, write_app(tmp_path / "app", flat), {}, timeout_seconds=500)
        deadline = time.monotonic() + 200
        while done(out) < 2 and time.monotonic() < deadline:
            time.sleep(0.2)
        federation.kill(1)
        federation.start("partition-id=1 num-partitions=2 site='site-b'")
        outcome = run_of.result()
    assert outcome.complaint() is None, federation.report(outcome)
    here = run_method(Request("fedavg", "local", tmp_path / "here", clients=2, run_config=(text(settings),)))
    assert kept(out)["model.safetensors"] == kept(here)["model.safetensors"]
    entries = [json.loads(line) for line in (out / "ledger.jsonl").read_text().splitlines()]
    failed = [e for e in entries if e["failure"]]
    assert [e["client"] for e in failed] == [1] and failed[0]["stage"] in ("round", "evaluate")
    assert entries[-1]["client"] == 1 and entries[-1]["site"] == "site-b"
    assert any(f"the run is recorded on this machine, in {out}" in line for line in outcome.lines)
