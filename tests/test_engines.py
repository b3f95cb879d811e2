"""One app, three engines: the same model from the local engine and from Ray, and methods on real Flower processes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from fedwarm.config import Value
from fedwarm.run.launch import Request, run_method
from fedwarm.run.ray import write_app
from tests.federation import loopback_federation
from tests.runs import SMALL_WARMFED, same

FAST: dict[str, Value] = {"num-server-rounds": 2, "local-epochs": 1, "data.max-examples": 40}


def text(settings: dict[str, Value]) -> str:
    return " ".join(f"{key}={json.dumps(value)}" for key, value in settings.items())


@pytest.mark.parametrize(("method", "settings"), [("fedavg", FAST), ("warmfed", SMALL_WARMFED)])
def test_local_and_ray_give_the_same_model_bit_for_bit(method: str, settings: dict[str, Value], tmp_path: Path) -> None:
    folders = [
        run_method(Request(method, engine, tmp_path / engine, seed=3, clients=2, run_config=(text(settings),)))
        for engine in ("local", "ray")
    ]
    models = [load_file(folder / "model.safetensors") for folder in folders]
    assert same(*models)
    results = [json.loads((folder / "results.json").read_text()) for folder in folders]
    assert [r["engine"] for r in results] == ["local", "ray"]
    assert results[0]["final"] == results[1]["final"]
    assert results[0]["totals"]["bytes_up"] == results[1]["totals"]["bytes_up"]


def test_methods_run_on_superlink_and_supernodes(tmp_path: Path) -> None:
    """The same settings as on the local engine give the same model on two SuperNodes, each message a process of its own."""
    with loopback_federation(tmp_path / "federation", nodes=2) as federation:
        for method, settings in (("fedavg", {**FAST, "num-server-rounds": 1}), ("warmfed", SMALL_WARMFED)):
            out = tmp_path / method
            flat = {"method": method, **settings, "out": str(out), "client-folder": str(out / "clients")}
            app = write_app(tmp_path / f"app-{method}", flat)
            outcome = federation.submit(app, {}, timeout_seconds=400)
            assert outcome.complaint() is None, federation.report(outcome)
            results = json.loads((out / "results.json").read_text())
            assert results["complete"] and results["partition"]["clients"] == 2
            here = run_method(Request(method, "local", tmp_path / f"local-{method}", clients=2, run_config=(text(settings),)))
            if method == "warmfed":
                assert same(load_file(out / "model.safetensors"), load_file(here / "model.safetensors"))
