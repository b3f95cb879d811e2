"""MLflow."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path

from fedwarm.record.trackers import PROJECT, Told, package
from fedwarm.settings.fields import Value

PARAMS_PER_CALL = 100


class MLflow:
    """A run of the experiment `fedwarm`, in `<folder>/mlflow` or on the server that MLFLOW_TRACKING_URI names."""

    needs = ("mlflow",)
    install = "'fedwarm[mlflow]'"

    def __init__(self, folder: Path, settings: Mapping[str, Value], resumed_from: int | None) -> None:
        mlflow, self._entities = package("mlflow", "mlflow"), package("mlflow", "mlflow.entities")
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


COMPONENT = MLflow
