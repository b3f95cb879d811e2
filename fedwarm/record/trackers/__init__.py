"""Trackers, which are told of every round besides the run folder.

A tracker is a class made with (run folder, settings of the run, last round that a resumed run keeps), see `tracker`; its calls
are those of `Tracker`. Beside its `needs`, the packages that it imports, it may say `install`, how pip is asked for them.

Nothing leaves the machine unless the user's environment says so: TensorBoard and MLflow write into the run folder (MLflow to the
server that MLFLOW_TRACKING_URI names, where it is set), Weights & Biases works offline unless WANDB_MODE or WANDB_API_KEY is set.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, cast

from fedwarm.core.files import write_text
from fedwarm.settings.fields import SettingError, Value
from fedwarm.settings.kinds import TRACKERS

PROJECT = "fedwarm"
QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "WANDB_ERROR_REPORTING": "false"}


class Tracker(Protocol):
    """Takes the measures of a run as they come."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Measures by name after round `step`."""

    def close(self) -> None:
        """Nothing more will come."""


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


def tracker(name: str, folder: Path | None, settings: Mapping[str, Value], resumed_from: int | None = None) -> Tracker:
    """The tracker of that name, open.

    Args:
        name: of the kind `TRACKERS`.
        folder: the run folder; None only goes with "none".
        settings: the run's settings, shown beside its measures.
        resumed_from: the last measured round that the run keeps of what the folder holds (-1: of none); None: it begins anew.

    Raises:
        SettingError: unknown name, no run folder, a package that is not installed, or a service that cannot be opened.
    """
    begin = TRACKERS.load(name)
    if name == TRACKERS.first:
        return cast(Tracker, begin(folder, settings, resumed_from))
    if folder is None:
        raise SettingError(f"tracker = {name!r} needs a run folder to write to; set `out`, or tracker to 'none'")
    for variable, value in QUIET.items():
        os.environ.setdefault(variable, value)
    try:
        return Guarded(name, begin(folder, settings, resumed_from))
    except SettingError:
        raise
    except Exception as error:
        raise SettingError(
            f"tracker = {name!r} cannot be opened: {_line(error)}; correct its configuration, or set tracker = 'none'"
        ) from error


def require(name: str) -> None:
    """See that a tracker's package is there, before any work begins.

    Raises:
        SettingError: it is not installed.
    """
    for needed in getattr(TRACKERS.load(name), "needs", ()):
        package(name, needed)


def package(name: str, module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        found = TRACKERS.load(name)
        what = getattr(found, "install", "") or " ".join(getattr(found, "needs", ()))
        raise SettingError(f"tracker = {name!r} needs a package that is not installed: pip install {what}") from error


def _line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
