"""Ctrl-C and a polite end of a run: one line that says how to go on, the code that shells expect, and nothing half written."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from fedwarm.core.compute import torch_threads
from fedwarm.core.failures import Interrupted
from fedwarm.launch import run as launch
from fedwarm.launch.interrupt import how_to_go_on, interruptible
from fedwarm.record.checkpoint import FOLDER, INDEX
from fedwarm.record.lock import LOCK
from fedwarm.rounds import client as base
from tests.shell import call
from tests.waiting import wait_until

SMALL = "data.max-examples=8 local-epochs=1 data.partition='iid'"
ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def _shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    for name in (*launch.QUIET, "FEDWARM_ENGINE"):
        monkeypatch.setenv(name, "1")
    defaults = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL, signal.SIGTERM: signal.SIG_DFL}
    before = {number: signal.signal(number, action) for number, action in defaults.items()}  # nohup and a background ignore some
    with torch_threads(torch.get_num_threads()):
        yield
    for number, action in before.items():
        signal.signal(number, action)


def signalled(monkeypatch: pytest.MonkeyPatch, number: int, at: int) -> pytest.MonkeyPatch:
    """Send this process a signal when a client trains the nth time."""
    original, calls = base.fit, [0]

    def fit(*args: Any, **named: Any) -> Any:
        calls[0] += 1
        if calls[0] == at:
            os.kill(os.getpid(), number)
        return original(*args, **named)

    monkeypatch.setattr(base, "fit", fit)
    return monkeypatch


ENDS = [(signal.SIGTERM, 143, 4), (signal.SIGINT, 130, 4), (signal.SIGHUP, 129, 1)]


@pytest.mark.parametrize(("number", "code", "at"), ENDS)
def test_a_run_that_is_ended_says_how_to_go_on(
    number: int, code: int, at: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    options = ["--clients", "2", "--workers", "1", "--rounds", "2", "-c", SMALL, "--out", "my runs/a"]
    with monkeypatch.context() as patch:
        assert call(signalled(patch, number, at), "run", "fedavg", *options) == code
    line = capsys.readouterr().err.splitlines()[-1]
    how = "after stage 2 (evaluate, round 1)" if at > 2 else "in its first stage"
    assert line == f"fedwarm: interrupted {how}; continue with: fedwarm run --resume --out 'my runs/a'"
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    place = tmp_path / "my runs" / "a"
    assert not list(place.rglob(".*")), "neither a lock nor half a file"
    assert call(monkeypatch, *shlex.split(line.partition("continue with: fedwarm ")[2]), "--workers", "1") == 0
    assert json.loads((place / "results.json").read_text())["complete"]


def test_a_sweep_that_is_ended_goes_on_by_the_same_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    text = "methods = ['fedavg']\nclients = 2\n[settings]\ndata.max-examples = 8\nlocal-epochs = 1\nnum-server-rounds = 1\n"
    (tmp_path / "grid.toml").write_text(text)
    with monkeypatch.context() as patch:
        assert call(signalled(patch, signal.SIGTERM, 2), "run", "--sweep", "grid.toml", "--workers", "1") == 143
    assert capsys.readouterr().err.splitlines()[-1] == "fedwarm: interrupted; the same command goes on with the sweep"
    assert call(monkeypatch, "run", "--sweep", "grid.toml", "--workers", "1") == 0


def test_what_the_caller_handles_stays_so(monkeypatch: pytest.MonkeyPatch) -> None:
    came: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: came.append(number))
    try:
        with interruptible(lambda: "?"):
            os.kill(os.getpid(), signal.SIGTERM)
        assert came == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_second_polite_end_waits_for_the_first() -> None:
    cleared = []
    with pytest.raises(Interrupted, match="how") as caught, interruptible(lambda: "how"):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            os.kill(os.getpid(), signal.SIGHUP)
            cleared.append(True)
    assert cleared and caught.value.code == 143


def test_what_is_said_before_there_is_a_checkpoint(tmp_path: Path) -> None:
    assert how_to_go_on(tmp_path, "") == "interrupted before its first checkpoint; give the same command again"
    (tmp_path / "results.json").touch()
    assert how_to_go_on(tmp_path, " --engine ray").endswith("give the same command again with --fresh")


@pytest.mark.long
@pytest.mark.parametrize("engine", ["local", "ray"])
def test_a_process_that_is_ended_leaves_a_run_that_goes_on(engine: str, tmp_path: Path) -> None:
    """With workers of its own, or with all of Flower's processes."""
    options = ["--clients", "2", "--rounds", "200", "--engine", engine, "-c", SMALL, "--out", "run"]
    program = [sys.executable, "-c", "from fedwarm.cli.app import main; main()", "run"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([*program, "fedavg", *options], stderr=subprocess.PIPE, text=True, env=env)
    index = tmp_path / "run" / FOLDER / INDEX
    wait_until(lambda: index.exists() and json.loads(index.read_text())["done"] > 2, 900)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=600)
    assert process.returncode == 143
    suffix = "" if engine == "local" else " --engine ray"
    assert said.splitlines()[-1].startswith("fedwarm: interrupted after stage ")
    assert said.splitlines()[-1].endswith(f"; continue with: fedwarm run --resume --out run{suffix}")
    done = json.loads(index.read_text())["done"]
    again = [*program, "--resume", "--out", "run", "--workers", "1", "--rounds", str(done // 2 + 1)]
    assert subprocess.run(again, env=env, capture_output=True, timeout=900, check=False).returncode == 0
    assert json.loads((tmp_path / "run" / "results.json").read_text())["complete"] and not (tmp_path / "run" / LOCK).exists()
