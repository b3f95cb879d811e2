"""What every tracker keeps to, an installed package's own among them; each check can be called for any tracker."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from fedwarm.record.trackers import tracker
from fedwarm.settings.fields import SettingError
from fedwarm.settings.kinds import TRACKERS
from fedwarm.settings.registry import Kind

Check = Callable[[Kind[Any], str, Path], None]
SETTINGS: dict[str, Any] = {"method": "fedavg", "seed": 3, "data.alpha": 0.5, "model.weights": ""}


def check_told(kind: Kind[Any], name: str, folder: Path) -> None:
    """It takes measures round by round and closes; nothing is measured in a round without measures."""
    told = tracker(name, folder, SETTINGS)
    for step in range(3):
        told.log(step, {"accuracy": 0.25 * step, "bytes up": 1000.0})
    told.log(3, {})
    told.close()


def check_resumed(kind: Kind[Any], name: str, folder: Path) -> None:
    """A resumed run tells what is new, and may tell again what was told."""
    broken = tracker(name, folder, SETTINGS)
    broken.log(0, {"accuracy": 0.0})
    broken.close()
    resumed = tracker(name, folder, SETTINGS, resumed_from=0)
    for step in range(2):
        resumed.log(step, {"accuracy": 0.25 * step})
    resumed.close()


def check_folder(kind: Kind[Any], name: str, folder: Path) -> None:
    """Any but that of none needs a run folder."""
    if name == kind.first:
        tracker(name, None, SETTINGS).close()
        return
    with pytest.raises(SettingError, match="needs a run folder") as caught:
        tracker(name, None, SETTINGS)
    assert repr(name) in str(caught.value)


CHECKS: tuple[Check, ...] = (check_told, check_resumed, check_folder)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", TRACKERS)
def test_contract(
    name: str, check: Check, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if missing := [package for package in getattr(TRACKERS.load(name), "needs", ()) if find_spec(package) is None]:
        pytest.skip(f"{missing[0]} is not installed")
    for variable in ("MLFLOW_TRACKING_URI", "WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(variable, raising=False)
    check(TRACKERS, name, tmp_path / "run")
    assert "is told nothing more" not in caplog.text, "a failure that a run would survive"
