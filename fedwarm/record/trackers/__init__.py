"""Who else is told of every round: TensorBoard, MLflow or Weights & Biases, behind one small interface.

Nothing leaves the machine unless the user's environment says so: TensorBoard and MLflow write into the run folder (MLflow to the
server that MLFLOW_TRACKING_URI names, where it is set), Weights & Biases works offline unless WANDB_MODE or WANDB_API_KEY is set.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from fedwarm.core.files import write_text
from fedwarm.core.text import in_markdown
from fedwarm.settings.config import SettingError, Value, near

PROJECT = "fedwarm"
PARAMS_PER_CALL = 100
QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "WANDB_ERROR_REPORTING": "false"}


class Tracker(Protocol):
    """Takes the measures of a run as they come."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Measures by name after round `step`."""

    def close(self) -> None:
        """Nothing more will come."""


class Silent:
    """Tells nobody."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class TensorBoard:
    """Event files in `<folder>/tensorboard`; what a broken run told after the round it is resumed from is purged."""

    def __init__(self, folder: Path, settings: Mapping[str, Value], resumed_from: int | None) -> None:
        writer = _package("tensorboard", "torch.utils.tensorboard").SummaryWriter
        purge = None if resumed_from is None else resumed_from + 1
        self._writer = writer(str(folder / "tensorboard"), purge_step=purge)
        if resumed_from is None or resumed_from < 0:
            rows = "\n".join(f"| {in_markdown(key)} | {in_markdown(str(value))} |" for key, value in settings.items())
            self._writer.add_text("settings", f"| setting | value |\n|---|---|\n{rows}", 0)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class Told:
    """Which run of a tracking service this is, and up to which round it was told: `tracker.json` in the run folder.

    Services cannot take back what they were told, and a resumed run measures the same once more, so it tells only what is new.
    """

    def __init__(self, folder: Path, resumed_from: int | None) -> None:
        self._path = folder / "tracker.json"
        known = json.loads(self._path.read_text()) if resumed_from is not None and self._path.is_file() else {}
        self.run, self.step = str(known.get("run", "")), int(known.get("step", -1))

    def save(self, run: str, step: int) -> None:
        self.run, self.step = run, step
        write_text(self._path, json.dumps({"run": run, "step": step}) + "\n")


class MLflow:
    """A run of the experiment `fedwarm`, in `<folder>/mlflow` or on the server that MLFLOW_TRACKING_URI names."""

    def __init__(self, folder: Path, settings: Mapping[str, Value], resumed_from: int | None) -> None:
        mlflow, self._entities = _package("mlflow", "mlflow"), _package("mlflow", "mlflow.entities")
        place = folder / "mlflow"
        uri = os.environ.get("MLFLOW_TRACKING_URI")
        if not uri:
            place.mkdir(parents=True, exist_ok=True)
        self._client = mlflow.MlflowClient(tracking_uri=uri or f"sqlite:///{place / 'mlflow.db'}")
        self._told = Told(folder, resumed_from)
        if not self._told.run:
            known = self._client.get_experiment_by_name(PROJECT)
            files = None if uri else (place / "files").as_uri()
            experiment = known.experiment_id if known else self._client.create_experiment(PROJECT, artifact_location=files)
            self._told.save(self._client.create_run(experiment, run_name=folder.name).info.run_id, -1)
            self._settings(settings)

    def _settings(self, settings: Mapping[str, Value]) -> None:
        params = [self._entities.Param(key, str(value)) for key, value in settings.items() if value != ""]
        for start in range(0, len(params), PARAMS_PER_CALL):
            self._client.log_batch(self._told.run, params=params[start : start + PARAMS_PER_CALL])

    def log(self, step: int, values: Mapping[str, float]) -> None:
        if step <= self._told.step:
            return
        now = int(time.time() * 1000)
        metrics = [self._entities.Metric(name, value, now, step) for name, value in values.items()]
        self._client.log_batch(self._told.run, metrics=metrics)
        self._told.save(self._told.run, step)

    def close(self) -> None:
        self._client.set_terminated(self._told.run)


class WandB:
    """A run of the project `fedwarm`, below `<folder>/wandb` and, where the user's environment says so, on the service."""

    def __init__(self, folder: Path, settings: Mapping[str, Value], resumed_from: int | None) -> None:
        wandb = _package("wandb", "wandb")
        self._told = Told(folder, resumed_from)
        decided = os.environ.get("WANDB_MODE") or os.environ.get("WANDB_API_KEY")
        folder.mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(
            project=PROJECT,
            name=folder.name,
            dir=str(folder),
            id=self._told.run or None,
            resume="allow" if self._told.run else None,
            mode=None if decided else "offline",
            config=dict(settings),
            settings=wandb.Settings(console="off", silent=True),
        )
        self._told.save(str(self._run.id), self._told.step)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        if step > self._told.step:
            self._run.log(dict(values), step=step)
            self._told.save(self._told.run, step)

    def close(self) -> None:
        self._run.finish()


class Guarded:
    """A tracker whose failure costs its run nothing but a warning: it is told nothing more."""

    def __init__(self, name: str, inner: Tracker) -> None:
        self._name, self._inner, self._failed = name, inner, False

    def log(self, step: int, values: Mapping[str, float]) -> None:
        if values:
            self._try(f"round {step}", lambda: self._inner.log(step, values))

    def close(self) -> None:
        self._try("the end", self._inner.close)

    def _try(self, when: str, act: Callable[[], None]) -> None:
        if self._failed:
            return
        try:
            act()
        except Exception as error:
            self._failed = True
            logging.getLogger("flwr").warning("%s failed at %s and is told nothing more: %s", self._name, when, _line(error))


TRACKERS: dict[str, Callable[[Path, Mapping[str, Value], int | None], Tracker] | None] = {
    "none": None,
    "tensorboard": TensorBoard,
    "mlflow": MLflow,
    "wandb": WandB,
}


def tracker(name: str, folder: Path | None, settings: Mapping[str, Value], resumed_from: int | None = None) -> Tracker:
    """The tracker of that name, open.

    Args:
        name: one of `TRACKERS`.
        folder: the run folder; None only goes with "none".
        settings: the run's settings, shown beside its measures.
        resumed_from: the last measured round that the run keeps of what the folder holds (-1: of none); None: it begins anew.

    Raises:
        SettingError: unknown name, no run folder, a package that is not installed, or a service that cannot be opened.
    """
    if name not in TRACKERS:
        raise SettingError(f"tracker = {name!r} is unknown{near(name, list(TRACKERS))}; choose one of {', '.join(TRACKERS)}")
    begin = TRACKERS[name]
    if begin is None:
        return Silent()
    if folder is None:
        raise SettingError(f"tracker = {name!r} needs a run folder to write to; set `out`, or tracker to 'none'")
    for variable, value in QUIET.items():
        os.environ.setdefault(variable, value)
    try:
        return Guarded(name, begin(folder, settings, resumed_from))
    except SettingError:
        raise
    except Exception as error:
        raise SettingError(f"tracker = {name!r} cannot be opened: {_line(error)}") from error


def require(name: str) -> None:
    """See that a tracker's package is there, before any work begins.

    Raises:
        SettingError: it is not installed.
    """
    if TRACKERS.get(name) is not None:
        _package(name, name)


def _package(name: str, module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        what = "tensorboard" if name == "tensorboard" else f"'fedwarm[{name}]'"
        raise SettingError(f"tracker = {name!r} needs a package that is not installed: pip install {what}") from error


def _line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
