"""Trackers: TensorBoard's files read back; MLflow and Weights & Biases against stand-ins that record what they are told."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from fedwarm.record import trackers
from fedwarm.record.trackers import Tracker, require, tracker
from fedwarm.settings.config import General
from fedwarm.settings.fields import SettingError
from fedwarm.settings.kinds import TRACKERS

SETTINGS: dict[str, Any] = {"method": "fedavg", "seed": 3, "data.alpha": 0.5, "model.weights": ""}


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in trackers.QUIET.items():
        monkeypatch.setenv(name, value)


def tell(told: Tracker, rounds: range) -> None:
    for n in rounds:
        told.log(n, {"accuracy": 0.25 * n, "bytes up": 1000.0 * n})


def test_the_table_holds_what_the_setting_offers() -> None:
    assert General.__dataclass_fields__["tracker"].metadata["choices"] is TRACKERS


def test_none_leaves_nothing(tmp_path: Path) -> None:
    told = tracker("none", None, SETTINGS)
    tell(told, range(3))
    told.close()
    tell(tracker("none", tmp_path, SETTINGS, 1), range(2))
    assert list(tmp_path.iterdir()) == []


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

    read = EventAccumulator(str(folder / "tensorboard"))
    read.Reload()
    return {tag: [(e.step, e.value) for e in read.Scalars(tag)] for tag in read.Tags()["scalars"]}


@pytest.mark.parametrize("resumed_from", [None, -1])
def test_tensorboard_files_hold_every_round_and_the_settings(tmp_path: Path, resumed_from: int | None) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    told = tracker("tensorboard", tmp_path / "run", SETTINGS | {"warmfed.prompt": "a [b]| $c$ <i>"}, resumed_from)
    tell(told, range(3))
    assert scalars(tmp_path / "run")["accuracy"] == [(0, 0.0), (1, 0.25), (2, 0.5)], "written as the run goes on"
    told.log(3, {})
    told.close()
    assert scalars(tmp_path / "run")["bytes up"] == [(0, 0.0), (1, 1000.0), (2, 2000.0)]
    read = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    read.Reload()
    (text,) = read.Tensors("settings/text_summary")
    assert rb"| warmfed.prompt | a \[b\]\| \$c\$ &lt;i&gt; |" in text.tensor_proto.string_val[0]
    assert b"| data.alpha | 0.5 |" in text.tensor_proto.string_val[0]


@pytest.mark.parametrize("writers_before", [0, 9])
def test_tensorboard_forgets_what_came_after_the_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writers_before: int
) -> None:
    from tensorboard.summary.writer import event_file_writer  # type: ignore[import-untyped]

    monkeypatch.setattr(event_file_writer._global_uid, "_value", writers_before)  # by name, writer 10 would come before writer 9
    broken = tracker("tensorboard", tmp_path, SETTINGS)
    tell(broken, range(4))
    broken.log(4, {"accuracy": 0.99})
    broken.close()
    resumed = tracker("tensorboard", tmp_path, SETTINGS, resumed_from=1)
    tell(resumed, range(2, 4))
    resumed.close()
    assert scalars(tmp_path)["accuracy"] == [(0, 0.0), (1, 0.25), (2, 0.5), (3, 0.75)]


class FakeMlflow:
    """As much of MLflow as is used: experiments by name, runs with parameters and the history of their metrics."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.uris: list[str] = []
        self.experiments: dict[str, str] = {}
        self.places: list[str | None] = []
        self.runs: dict[str, dict[str, Any]] = {}
        module, entities = ModuleType("mlflow"), ModuleType("mlflow.entities")
        module.MlflowClient = lambda tracking_uri: self._client(tracking_uri)  # type: ignore[attr-defined]
        entities.Param = lambda key, value: SimpleNamespace(key=key, value=value)  # type: ignore[attr-defined]
        entities.Metric = lambda key, value, timestamp, step: (key, value, step)  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "mlflow", module)
        monkeypatch.setitem(sys.modules, "mlflow.entities", entities)

    def _client(self, uri: str) -> FakeMlflow:
        self.uris.append(uri)
        return self

    def get_experiment_by_name(self, name: str) -> SimpleNamespace | None:
        return SimpleNamespace(experiment_id=self.experiments[name]) if name in self.experiments else None

    def create_experiment(self, name: str, artifact_location: str | None) -> str:
        self.places.append(artifact_location)
        return self.experiments.setdefault(name, str(len(self.experiments)))

    def create_run(self, experiment_id: str, run_name: str) -> SimpleNamespace:
        key = f"run-{len(self.runs)}"
        self.runs[key] = {"name": run_name, "experiment": experiment_id, "params": {}, "metrics": [], "ended": 0}
        return SimpleNamespace(info=SimpleNamespace(run_id=key))

    def log_batch(self, run_id: str, metrics: Any = (), params: Any = ()) -> None:
        assert len(params) <= 100
        self.runs[run_id]["params"].update({p.key: p.value for p in params})
        self.runs[run_id]["metrics"] += metrics

    def set_terminated(self, run_id: str) -> None:
        self.runs[run_id]["ended"] += 1


def test_mlflow_is_told_locally_and_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeMlflow(monkeypatch)
    tell(tracker("mlflow", tmp_path / "r", SETTINGS | {f"k{i}": i for i in range(150)}), range(3))
    resumed = tracker("mlflow", tmp_path / "r", SETTINGS, resumed_from=1)
    tell(resumed, range(2, 4))
    resumed.close()
    assert set(fake.uris) == {f"sqlite:///{tmp_path / 'r' / 'mlflow' / 'mlflow.db'}"}
    assert fake.places == [(tmp_path / "r" / "mlflow" / "files").as_uri()]
    (run,) = fake.runs.values()
    assert run["name"] == "r" and run["ended"] == 1
    assert run["params"]["data.alpha"] == "0.5" and "model.weights" not in run["params"] and len(run["params"]) == 153
    assert [(v, s) for k, v, s in run["metrics"] if k == "accuracy"] == [(0.0, 0), (0.25, 1), (0.5, 2), (0.75, 3)]


def test_mlflow_goes_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://tracking.example")
    fake = FakeMlflow(monkeypatch)
    for name in ("a", "b"):
        tracker("mlflow", tmp_path / name, SETTINGS).close()
    assert fake.uris == ["https://tracking.example"] * 2 and fake.places == [None]
    assert [run["experiment"] for run in fake.runs.values()] == ["0", "0"]
    assert not (tmp_path / "a" / "mlflow").exists()


class FakeWandb:
    """As much of wandb as is used: what each run was begun with and told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun: list[dict[str, Any]] = []
        self.logged: list[tuple[str, int, dict[str, float]]] = []
        self.ended: list[str] = []
        module = ModuleType("wandb")
        module.init = self._init  # type: ignore[attr-defined]
        module.Settings = lambda **settings: settings  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "wandb", module)

    def _init(self, **given: Any) -> SimpleNamespace:
        key = given["id"] or f"id-{len(self.begun)}"
        self.begun.append(given)
        return SimpleNamespace(
            id=key,
            log=lambda values, step: self.logged.append((key, step, values)),
            finish=lambda: self.ended.append(key),
        )


def test_wandb_is_told_offline_and_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeWandb(monkeypatch)
    tell(tracker("wandb", tmp_path / "r", SETTINGS), range(3))
    resumed = tracker("wandb", tmp_path / "r", SETTINGS, resumed_from=1)
    tell(resumed, range(2, 4))
    resumed.close()
    first, second = fake.begun
    assert (first["mode"], first["id"], first["resume"], first["dir"]) == ("offline", None, None, str(tmp_path / "r"))
    assert (first["config"], first["name"]) == (SETTINGS, "r")
    assert (second["mode"], second["id"], second["resume"]) == ("offline", "id-0", "allow")
    assert [(key, step, values["accuracy"]) for key, step, values in fake.logged] == [("id-0", n, 0.25 * n) for n in range(4)]
    assert fake.ended == ["id-0"]


@pytest.mark.parametrize(("variable", "value"), [("WANDB_MODE", "online"), ("WANDB_API_KEY", "x")])
def test_wandb_goes_where_the_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    fake = FakeWandb(monkeypatch)
    tracker("wandb", tmp_path, SETTINGS)
    assert fake.begun[0]["mode"] is None


def test_a_run_begun_anew_is_another_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an earlier run in the folder left is not gone on with, unless the run is resumed."""
    fake = FakeWandb(monkeypatch)
    for _ in range(2):
        tell(tracker("wandb", tmp_path, SETTINGS), range(2))
    assert [key for key, _, _ in fake.logged] == ["id-0", "id-0", "id-1", "id-1"]
    assert json.loads((tmp_path / "tracker.json").read_text()) == {"run": "id-1", "step": 1}


def test_a_run_resumed_before_its_first_round_is_the_same_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeWandb(monkeypatch)
    for _ in range(2):
        tell(tracker("wandb", tmp_path, SETTINGS, -1), range(2))
    assert [(key, step) for key, step, _ in fake.logged] == [("id-0", 0), ("id-0", 1)]


# What goes wrong


@pytest.mark.parametrize("name", ["mlflow", "wandb", "tensorboard"])
def test_a_missing_package_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    for call in (lambda: require(name), lambda: tracker(name, tmp_path, SETTINGS)):
        with pytest.raises(SettingError, match=rf"tracker = '{name}' needs .* pip install .*{name}") as caught:
            call()
        assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_required_in_silence() -> None:
    for name in ("none", "tensorboard"):
        require(name)


def test_an_unknown_tracker_names_the_near_one(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"tracker = 'tensorbord' is not a known tracker \(did you mean tensorboard\?\)"):
        tracker("tensorbord", tmp_path, SETTINGS)


def test_a_tracker_needs_a_folder() -> None:
    with pytest.raises(SettingError, match="tracker = 'tensorboard' needs a run folder"):
        tracker("tensorboard", None, SETTINGS)


def test_a_service_that_cannot_be_opened_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeMlflow(monkeypatch)
    monkeypatch.setattr(fake, "create_run", lambda *a, **k: (_ for _ in ()).throw(OSError("no such host\nat line 3")))
    said = "tracker = 'mlflow' cannot be opened: no such host; correct its configuration, or set tracker = 'none'$"
    with pytest.raises(SettingError, match=said):
        tracker("mlflow", tmp_path, SETTINGS)


def test_a_service_that_fails_later_costs_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fake = FakeMlflow(monkeypatch)
    told = tracker("mlflow", tmp_path, SETTINGS)
    tell(told, range(1))
    monkeypatch.setattr(fake, "log_batch", lambda *a, **k: (_ for _ in ()).throw(ConnectionError("gone away")))
    logging.getLogger("flwr").addHandler(caplog.handler)
    try:
        tell(told, range(1, 4))
        told.close()
    finally:
        logging.getLogger("flwr").removeHandler(caplog.handler)
    warnings = {r.getMessage() for r in caplog.records if r.levelno == logging.WARNING}
    assert warnings == {"mlflow failed at round 1 and is told nothing more: gone away"}
    assert [run["ended"] for run in fake.runs.values()] == [0]
