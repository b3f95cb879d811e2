"""The Ray engine runs an app of installed components on a SuperLink of its own and leaves nothing behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil  # type: ignore[import-untyped]
import pytest

from fedwarm.core.failures import RunError
from fedwarm.engines import ray
from fedwarm.engines.ray import run_ray
from fedwarm.flower.app import read_app
from fedwarm.flower.outcome import Outcome
from fedwarm.flower.processes import MARK, environment
from fedwarm.flower.submitting import _follow, submit
from fedwarm.flower.writing import write_app
from fedwarm.settings.fields import SettingError, Value
from tests.federation import write_tiny

AWKWARD: dict[str, Value] = {
    "empty": "",
    "spaced": "two words",
    "quotes": """a "double" and a 'single' one""",
    "backslash": "C:\\temp\\new",
    "lines": "one\ntwo\ttab \x7f",
    "letters": "größer 手 🙂",
    "data.name": "digits",
    "a": 1,
    "a.b": True,
    "off": False,
    "negative": -7,
    "small": 1e-05,
    "whole": 2.0,
}


def tiny_app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **config: Value) -> Path:
    """A bundle without code, whose components lie in a folder that every Python finds."""
    write_tiny(tmp_path / "installed")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(tmp_path / "installed"), os.environ.get("PYTHONPATH")])))
    base: dict[str, Value] = {"out": str(tmp_path), "fails": "", **config}
    return write_app(tmp_path / "app", base, server="tiny:server", client="tiny:client")


def test_a_run_may_take_as_long_as_it_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def submit(*_: object, timeout_seconds: float | None, **__: object) -> Outcome:
        asked.append(timeout_seconds)
        return Outcome("finished:completed", "", ())

    monkeypatch.setattr(ray, "superlink", lambda home, simulation: nullcontext((SimpleNamespace(env={}), 0)))
    monkeypatch.setattr(ray, "submit", submit)
    monkeypatch.setattr(ray.importlib.util, "find_spec", lambda name: object())
    run_ray(tmp_path, {}, clients=1)
    assert asked == [None] and _follow(["echo", "a"], dict(os.environ), None, None) == (0, ["a"])


def assert_nothing_is_left(tmp_path: Path) -> dict[str, Any]:
    """No process of the run lives and its folder is gone; what its server saw."""
    seen: dict[str, Any] = json.loads((tmp_path / "seen.json").read_text())
    mark = seen["env"][MARK]
    assert not Path(seen["env"]["FLWR_HOME"]).exists()
    for process in psutil.process_iter():
        try:
            assert process.environ().get(MARK) != mark or process.status() == psutil.STATUS_ZOMBIE, process
        except (psutil.Error, OSError):
            continue
    return seen


def test_the_module_is_light() -> None:
    code = "import sys, fedwarm.engines.ray; print(sorted({'ray', 'torch', 'flwr', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_a_written_app_gives_its_config_back(tmp_path: Path) -> None:
    folder = write_app(tmp_path / "new" / "app", AWKWARD)
    assert [each.name for each in folder.iterdir()] == ["pyproject.toml"]
    read = read_app(folder).config
    assert read == AWKWARD
    assert {key: type(value) for key, value in read.items()} == {key: type(value) for key, value in AWKWARD.items()}


def test_a_value_that_flower_cannot_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"sizes = \[1, 2\] is list"):
        write_app(tmp_path, {"sizes": [1, 2]})  # type: ignore[dict-item]


def no_folder(tmp_path: Path) -> Path:
    return tmp_path / "nowhere"


def no_flower(tmp_path: Path) -> Path:
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "other"\n')
    return tmp_path


def no_toml(tmp_path: Path) -> Path:
    (tmp_path / "pyproject.toml").write_text("[project")
    return tmp_path


@pytest.mark.parametrize(
    ("make", "words"),
    [(no_folder, "no pyproject"), (no_flower, r"is no Flower app's: \[tool\.flwr\.app"), (no_toml, "is not valid TOML")],
)
def test_what_is_no_app_is_refused(tmp_path: Path, make: Callable[[Path], Path], words: str) -> None:
    with pytest.raises(SettingError, match=words):
        read_app(make(tmp_path))


def test_too_few_clients_and_unknown_overrides_are_refused_before_work(tmp_path: Path) -> None:
    app = write_app(tmp_path / "app", {"learning-rate": 0.1})
    with pytest.raises(SettingError, match="clients = 0"):
        run_ray(app, {}, clients=0)
    with pytest.raises(SettingError, match=r"unknown setting 'learning-rat'.*did you mean learning-rate"):
        submit(app, {"learning-rat": 0.2}, env=environment(tmp_path), timeout_seconds=60)


def test_an_app_that_flower_refuses_is_told_with_flowers_reason(tmp_path: Path) -> None:
    app = write_app(tmp_path / "app", {}, server="tiny:server", client="tiny:client")
    with pytest.raises(RunError) as caught:
        submit(app, {}, env=environment(tmp_path), timeout_seconds=60)
    message = str(caught.value)
    assert message.startswith(f"flwr run did not take {app}: Invalid Flower App configuration in '{app}/pyproject.toml'")
    assert "Unable to load module tiny" in message
    assert not set(message) & set("\n│╭─\x1b")


def test_a_run_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    app = write_app(tmp_path / "app", {})
    with pytest.raises(RunError, match=r"not finished after 0\.2 seconds"):
        submit(app, {}, env=environment(tmp_path), timeout_seconds=0.2)


@pytest.mark.parametrize(
    ("status", "lines", "complaint"),
    [
        (
            "finished:completed",
            ["INFO :  aggregate_train: Received 0 results and 2 failures"],
            "every client failed in every round; first error in the log: none",
        ),
        (
            "finished:completed",
            ["Traceback (most recent call last):", "ValueError: told to", "aggregate_train: Received 0 results and 1 failures"],
            "; first error in the log: ValueError: told to",
        ),
        ("finished:failed", [], "the run ended as finished:failed: why"),
        (
            "finished:failed",
            ["OSError: disk full"],
            "the run ended as finished:failed: why; first error in the log: OSError: disk full",
        ),
        ("finished:failed", ["OSError: why"], "the run ended as finished:failed: why"),
        ("finished:stopped", [], "the run ended as finished:stopped: why"),
    ],
)
def test_runs_that_count_as_failed(status: str, lines: list[str], complaint: str) -> None:
    assert str(Outcome(status, "why", tuple(lines)).complaint()).endswith(complaint)


def test_a_run_with_one_good_round_counts_as_done() -> None:
    rounds = [f"aggregate_train: Received {good} results and {2 - good} failures" for good in (0, 1)]
    assert Outcome("finished:completed", "N/A", tuple(rounds)).complaint() is None


@pytest.mark.processes
def test_a_run_gives_its_result_its_log_and_its_overrides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = tiny_app(tmp_path, monkeypatch, **{key: type(value)() for key, value in AWKWARD.items()})
    lines: list[str] = []
    run_ray(app, AWKWARD, clients=2, stream=lines.append, timeout_seconds=300)
    assert np.load(tmp_path / "result.npy").tolist() == [1.5, 1.5, 1.5]
    seen = assert_nothing_is_left(tmp_path)
    assert {key: seen["config"][key] for key in AWKWARD} == AWKWARD
    assert seen["here"] == []
    assert any("Received 2 results and 0 failures" in line for line in lines)
    assert not any("\x1b" in line or "\n" in line for line in lines)


@pytest.mark.long
@pytest.mark.processes
def test_a_server_that_raises_fails_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = tiny_app(tmp_path, monkeypatch, fails="server")
    with pytest.raises(RunError, match=r"finished:failed.*the server was told to fail") as caught:
        run_ray(app, {}, clients=2, timeout_seconds=300)
    assert any("ValueError: the server was told to fail" in line for line in caught.value.lines)
    assert "\n" not in str(caught.value)
    assert_nothing_is_left(tmp_path)
