"""Checkpoints that cannot be used are refused by name; the best model and the early stop follow the measurements."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Message
from safetensors.numpy import load_file

from fedwarm.launch.run import Request, run_method
from fedwarm.record import checkpoint
from fedwarm.record.checkpoint import FOLDER, INDEX, Checkpoint, Keeper, load
from fedwarm.settings.fields import SettingError, Value
from tests.engines import Heard
from tests.runs import run, same

FAST: dict[str, Value] = {
    "num-server-rounds": 2, "local-epochs": 1, "data.max-examples": 24, "data.image-size": 16, "server-threads": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "run"
    run("fedavg", folder, FAST)
    return folder


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    import shutil

    shutil.copytree(whole, tmp_path / "run")
    return tmp_path / "run"


def part(folder: Path) -> Path:
    return next((folder / FOLDER).glob("model.*.safetensors"))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def index(folder: Path, **changes: Any) -> None:
    path = folder / FOLDER / INDEX
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


SPOILS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a truncated model": (lambda f: cut(part(f)), r"model\..*safetensors is truncated or changed"),
    "a missing model": (lambda f: part(f).unlink(), r"model\..*safetensors is missing"),
    "a truncated index": (lambda f: cut(f / FOLDER / INDEX), r"checkpoint.json is truncated or not a checkpoint"),
    "no index": (lambda f: (f / FOLDER / INDEX).unlink(), "holds no checkpoint to resume from"),
    "another schema": (lambda f: index(f, schema=99), "has schema 99"),
    "another file": (lambda f: (f / FOLDER / INDEX).write_text("[1, 2]"), "is truncated or not a checkpoint"),
    "keys of another": (lambda f: index(f, color="red"), "is truncated or not a checkpoint"),
    "wrong types": (lambda f: index(f, done="three"), "is truncated or not a checkpoint"),
    "a short ledger": (lambda f: cut(f / "ledger.jsonl"), r"ledger.jsonl is shorter than its checkpoint says"),
    "another seed": (lambda f: index(f, settings={**load(f).settings, "seed": 5}), "seed = 0, but the run in .* has 5"),
    "a path outside": (
        lambda f: index(f, parts={"model": {"file": "../../model.safetensors", "sha256": "0"}}),
        "model.safetensors is missing",
    ),
}


@pytest.mark.parametrize("kind", SPOILS)
def test_what_cannot_be_resumed_is_refused_by_name(kind: str, copy: Path) -> None:
    spoil, message = SPOILS[kind]
    spoil(copy)
    before = (copy / "model.safetensors").read_bytes()
    with pytest.raises(SettingError, match=message) as caught:
        run("fedavg", copy, {**FAST, "resume": True})
    assert "\n" not in str(caught.value)
    assert (copy / "model.safetensors").read_bytes() == before


def test_a_pickle_is_no_checkpoint(copy: Path, tmp_path: Path) -> None:
    import hashlib
    import pickle

    class Evil:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "opened",)

    path = part(copy)
    path.write_bytes(pickle.dumps(Evil()))
    index(copy, parts={"model": {"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}})
    with pytest.raises(SettingError, match="is not a safetensors file"):
        run("fedavg", copy, {**FAST, "resume": True})
    assert not (tmp_path / "opened").exists()


def test_arrays_come_back_however_they_lie_in_memory(tmp_path: Path) -> None:
    parts = {"model": {"f": np.asfortranarray(np.arange(6.0).reshape(2, 3)), "n": np.array(3), "s": np.arange(8.0)[::2]}}
    Keeper(tmp_path).save(Checkpoint(0, False, "aa", 1, 0.0, {}, {}, {}, {}, parts))
    assert same(dict(load(tmp_path).parts["model"]), parts["model"])


@pytest.mark.parametrize("reader", ["_digest", "_read_part"])
def test_one_that_is_replaced_while_it_is_read_is_read_again(
    reader: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The part that the first index names is gone before or after it was found."""
    keeper, plain, reads = Keeper(tmp_path), getattr(checkpoint, reader), list[Any]()

    def saved(done: int) -> None:
        keeper.save(Checkpoint(done, False, "aa", 1, 0.0, {}, {}, {}, {}, {"model": {"w": np.full(3, float(done))}}))

    def reading(*given: Any) -> Any:
        reads.append(given)
        if len(reads) == 1:
            monkeypatch.setattr(checkpoint, "_digest", digest)
            saved(2)
            monkeypatch.setattr(checkpoint, reader, reading)
        return plain(*given)

    digest = checkpoint._digest
    saved(1)
    monkeypatch.setattr(checkpoint, reader, reading)
    found = load(tmp_path)
    assert (found.done, found.parts["model"]["w"].tolist(), len(reads)) == (2, [2.0] * 3, 2)


def test_a_complete_run_is_left_as_it_is(copy: Path) -> None:
    before = json.loads((copy / "results.json").read_text())
    assert run_method(Request("", out=copy, resume=True)) == copy
    assert json.loads((copy / "results.json").read_text()) == before


def _cut(message: Message) -> None:
    if message.metadata.group_id == "2":
        raise RuntimeError("the power is gone")


CUT = Heard(_cut)


def test_the_command_takes_the_settings_of_the_run(tmp_path: Path) -> None:
    text = 'num-server-rounds=2 local-epochs=1 data.max-examples=24 data.image-size=8 data.partition="iid" server-threads=1'
    whole = run_method(Request("fedavg", out=tmp_path / "whole", clients=3, workers=1, run_config=(text,)))
    broken = tmp_path / "broken"
    with pytest.raises(RuntimeError, match="the power is gone"):
        run_method(Request("fedavg", f"{__name__}:CUT", out=broken, clients=3, run_config=(text,)))
    with pytest.raises(SettingError, match="holds another run.*--resume"):
        run_method(Request("fedavg", out=broken, clients=3, workers=1, run_config=(text,)))
    for request, message in (
        (Request("fedavg", out=broken, resume=True, seed=9), "seed = 9, but the run in .* has 0"),
        (Request("fedprox", out=broken, resume=True), "method = 'fedprox', but"),
        (Request("fedavg", out=broken, resume=True, clients=5), "--clients 5"),
        (Request("fedavg", out=broken, resume=True, fresh=True), "give one of them"),
        (Request("", out=tmp_path / "nothing", resume=True), "holds no checkpoint"),
    ):
        with pytest.raises(SettingError, match=message):
            run_method(request)
    run_method(Request("", out=broken, resume=True, workers=2))
    assert same(load_file(broken / "model.safetensors"), load_file(whole / "model.safetensors"))
    assert not (tmp_path / "nothing").exists()


def test_the_best_model_is_kept_and_training_stops(tmp_path: Path) -> None:
    long = run("fedavg", tmp_path / "long", {**FAST, "num-server-rounds": 8, "learning-rate": 0.05})
    values = [r["global"]["accuracy"] for r in long.results["rounds"]]
    best = long.results["best"]
    assert best == {"round": 1 + int(np.argmax(values)), "watch": "accuracy", "value": max(values), "measured_on": "test"}
    target = sorted(values)[3]
    first = next(i for i, v in enumerate(values) if v >= target)
    early = run("fedavg", tmp_path / "early", {**FAST, "num-server-rounds": 8, "learning-rate": 0.05, "target": target})
    assert [r["global"]["accuracy"] for r in early.results["rounds"]] == values[: first + 1]
    assert early.results["complete"] and "reached the target" in early.results["notes"][-1]
    short = run("fedavg", tmp_path / "short", {**FAST, "num-server-rounds": best["round"]})
    whole = run("fedavg", tmp_path / "same", {**FAST, "num-server-rounds": best["round"], "learning-rate": 0.05})
    assert same(load_file(tmp_path / "long" / "best.safetensors"), whole.model) and not same(short.model, whole.model)


def test_patience_counts_measured_rounds_without_a_better_value(tmp_path: Path) -> None:
    still = {**FAST, "num-server-rounds": 9, "learning-rate": 1e-9, "patience": 3}
    found = run("fedavg", tmp_path / "run", still).results
    assert [r["round"] for r in found["rounds"]] == [1, 2, 3, 4] and found["best"]["round"] == 1
    assert found["notes"][1:] == ["stopped after round 4: no better accuracy in 3 rounds"]
