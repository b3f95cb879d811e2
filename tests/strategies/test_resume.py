"""Runs that are killed, at whatever moment, and go on to the same bytes."""

from __future__ import annotations

import json
import os
import signal
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from fedwarm.core.forking import FORK, begin
from fedwarm.diffusion.midway import NAME
from fedwarm.record.checkpoint import load
from fedwarm.settings.fields import Value
from tests.runs import LOCAL, SMALL_WARMFED, run, same

FAST: dict[str, Value] = {
    "num-server-rounds": 3,
    "local-epochs": 1,
    "data.max-examples": 24,
    "data.image-size": 16,
    "server-threads": 1,
}
WARM: dict[str, Value] = {**SMALL_WARMFED, "data.max-examples": 12, "diffusion.sample-steps": 2, "server-threads": 1}
FIVE: dict[str, Value] = {**WARM, "warmfed.protocol": "five-round", "num-server-rounds": 2, "warmfed.regenerate-each-round": True}
CODED: dict[str, Value] = {"data.image-size": 8, "dp-rec.bits": 3, "dp-rec.entropy": "seeded"}
REC: dict[str, Value] = {**LOCAL, **FAST, **CODED, "fraction-train": 0.5}
REPLAY: dict[str, Value] = {**REC, "dp-rec.downlink": "replay", "dp-rec.prior": "last", "dp-rec.server-momentum": 0.5}
CASES: dict[str, tuple[str, dict[str, Value]]] = {
    "fedavg": ("fedavg", {**FAST, "fraction-train": 0.5}),
    "fedprox": ("fedprox", FAST),
    "scaffold": ("scaffold", {**FAST, "fraction-train": 0.5, "scaffold.server-learning-rate": 0.7}),
    "rounded": ("quantization_robust", {**FAST, "codec": "stochastic-rounding"}),
    "private": ("fedprox", {**FAST, "codec": "dp-rec", "dp-rec.entropy": "seeded", "data.image-size": 8}),
    "local_only": ("local_only", FAST),
    "fedbn": ("fedbn", {**FAST, "data.image-size": 16, "fraction-train": 0.5}),
    "centralized": ("centralized", FAST),
    "median": ("fedavg", {**FAST, "robust.rule": "median", "robust.clip-norm": 1.0}),
    "dp_rec": ("dp_rec", REPLAY),
    "dp_rec unseen": ("dp_rec", {**REC, "dp-rec.view": "central_certified", "dp-rec.target-epsilon": 6.0}),
    "warmfed": ("warmfed", WARM),
    "warmfed five rounds": ("warmfed", FIVE),
}


def run_to_death(place: str, nth: int, method: str, folder: Path, settings: dict[str, Value], before: str) -> None:
    """Execute `before`, run a method, and kill this process when `place` is called the nth time."""
    exec(before, {})
    module, _, name = place.rpartition(".")
    owner, _, part = module.rpartition(".") if module.rpartition(".")[2][:1].isupper() else (module, "", "")
    holder: Any = getattr(import_module(owner), part) if part else import_module(owner)
    original, calls = getattr(holder, name), [0]

    def deadly(*given: Any, **named: Any) -> Any:
        calls[0] += 1
        if calls[0] == nth:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*given, **named)

    setattr(holder, name, deadly)
    run(method, folder, settings)


def killed(place: str, nth: int, method: str, folder: Path, settings: dict[str, Value], before: str = "") -> None:
    """Run a method in a process that is killed (SIGKILL) when `place` is called the nth time; `before` is executed first.

    It is a fork, which has its libraries loaded.
    """
    process = get_context(FORK).Process(target=run_to_death, args=(place, nth, method, folder, settings, before))
    begin(process, FORK)
    process.join(300)
    assert process.exitcode == -signal.SIGKILL


def model(folder: Path) -> dict[str, Any]:
    path = folder / "model.safetensors"
    return load_file(path) if path.is_file() else {}


def personal(folder: Path) -> dict[str, Any]:
    """The personal models that clients keep, by partition and name."""
    return {
        f"{path.parent.name}/{path.name}/{name}": array
        for path in (folder / "clients").glob("*/*/*.safetensors")
        for name, array in load_file(path).items()
    }


def without_times(folder: Path) -> Any:
    """What a run recorded, without seconds."""

    def bare(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: bare(v) for k, v in value.items() if k not in ("seconds", "commit")}
        return [bare(v) for v in value] if isinstance(value, list) else value

    return bare(json.loads((folder / "results.json").read_text()))


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The unbroken run of a case, made when it is first asked for."""
    found: dict[str, Path] = {}

    def get(case: str) -> Path:
        if case not in found:
            method, settings = CASES[case]
            found[case] = tmp_path_factory.mktemp("whole") / "run"
            run(method, found[case], settings)
        return found[case]

    return get


FITS = "fedwarm.rounds.client.fit"
PLACES = [
    ("fedavg", FITS, 1, "in the first round"),
    ("fedavg", FITS, 4, "in a round"),
    ("fedavg", "fedwarm.rounds.server.BaseStrategy.run_stage", 4, "between stages"),
    ("fedavg", "fedwarm.record.folder.RunFolder.append", 4, "before the checkpoint is written"),
    ("fedavg", "safetensors.numpy.save_file", 3, "while the model is written"),
    ("fedavg", "fedwarm.record.checkpoint.asdict", 4, "between the model and its index"),
    ("fedavg", "os.replace", 8, "while a file is renamed"),
    ("fedavg", "fedwarm.record.folder.RunFolder.finish", 1, "at the end"),
    ("fedprox", FITS, 6, "in a round"),
    ("scaffold", FITS, 4, "in a round, after a client has kept its control variate"),
    ("rounded", FITS, 6, "in a round"),
    ("private", FITS, 6, "in a round, after some clients have kept their code words"),
    ("local_only", FITS, 6, "in a round, after some clients have saved their models"),
    ("fedbn", FITS, 5, "in a round, after a client has kept its own tensors"),
    ("centralized", FITS, 2, "in a round"),
    ("median", FITS, 7, "in a round"),
    ("dp_rec", FITS, 4, "in a round, after a client has kept its code words"),
    ("dp_rec", "fedwarm.record.folder.RunFolder.append", 6, "after a round was booked, before the checkpoint is written"),
    ("dp_rec unseen", "fedwarm.rounds.server.BaseStrategy.run_stage", 4, "between stages"),
    ("warmfed", "fedwarm.diffusion.tuners.tune_adapter", 3, "while adapters are tuned"),
    ("warmfed", "fedwarm.diffusion.generate.Studio.keep", 3, "while images are drawn"),
    ("warmfed", "strategies.warmfed.fit", 3, "in the warm start"),
    ("warmfed", "clients.warmfed.fit", 3, "while clients distil"),
    ("warmfed five rounds", "fedwarm.diffusion.generate.Studio.keep", 6, "while images are drawn anew"),
    ("warmfed five rounds", "clients.warmfed.fit", 9, "in the second round"),
]


CHOSEN = [
    pytest.param(*place, id=f"{place[0]}: {place[3]}", marks=pytest.mark.long if place[0].startswith("warmfed") else ())
    for place in PLACES
]


@pytest.mark.long
def test_an_adapter_goes_on_between_its_steps(unbroken: Any, tmp_path: Path) -> None:
    """Killed in the second of a client's two steps: the first one's state is there, and the end is the same bytes."""
    method, settings = CASES["warmfed"]
    at_once = "import fedwarm.diffusion.midway as midway\nmidway.EVERY_SECONDS = 0.0\n"
    killed("fedwarm.diffusion.steps.tick", 4, method, tmp_path / "run", settings, at_once)
    assert len([*(tmp_path / "run").rglob(NAME)]) == 1
    run(method, tmp_path / "run", {**settings, "resume": True})
    assert same(model(tmp_path / "run"), model(unbroken("warmfed")))
    assert same(personal(tmp_path / "run"), personal(unbroken("warmfed")))
    assert not [*(tmp_path / "run").rglob(NAME)]


@pytest.mark.parametrize(("case", "place", "nth", "when"), CHOSEN)
def test_a_killed_run_goes_on_to_the_same_bytes(
    case: str, place: str, nth: int, when: str, unbroken: Any, tmp_path: Path
) -> None:
    method, settings = CASES[case]
    killed(place, nth, method, tmp_path / "run", settings)
    assert not (tmp_path / "run" / "model.safetensors").exists()
    run(method, tmp_path / "run", {**settings, "resume": True})
    whole = unbroken(case)
    assert same(model(tmp_path / "run"), model(whole)) and (model(whole) or method == "local_only")
    assert same(personal(tmp_path / "run"), personal(whole))
    assert without_times(tmp_path / "run") == without_times(whole)
    entries = [[json.loads(line) for line in (f / "ledger.jsonl").read_text().splitlines()] for f in (tmp_path / "run", whole)]
    assert [{**e, "seconds": 0} for e in entries[0]] == [{**e, "seconds": 0} for e in entries[1]]
    kept = load(tmp_path / "run")
    assert kept.complete and kept.facts == load(whole).facts
    assert all(same(dict(kept.parts[name]), dict(load(whole).parts[name])) for name in kept.parts)
