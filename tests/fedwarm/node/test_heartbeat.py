"""Whether a SuperNode is heard: its file, the clock, and the exit codes of who asks."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedwarm.node import heartbeat
from fedwarm.node.heartbeat import Pulse, look, place


@pytest.fixture
def pulse(tmp_path: Path) -> Iterator[Pulse]:
    held = Pulse(tmp_path / "home" / "heartbeat")
    yield held
    held.close()


@pytest.fixture
def file(tmp_path: Path, pulse: Pulse) -> Path:
    return tmp_path / "home" / "heartbeat"


def test_a_node_lives_from_its_first_accepted_heartbeat_until_it_was_not_heard_too_long(
    pulse: Pulse, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert look(file).runs and not look(file).alive(90) and "no heartbeat of this node yet" in look(file).told(90)
    clock = [1000.0]
    monkeypatch.setattr(time, "clock_gettime", lambda which: clock[0])
    pulse.beat()
    for clock[0], alive in ((1000.0, True), (1089.9, True), (1090.1, False), (99999.0, False)):
        assert look(file).alive(90) is alive
    assert look(file).told(90).endswith("98999 s ago, which is more than 90 s")
    pulse.beat()
    assert look(file).told(90) == "the SuperLink accepted this node's last heartbeat 0 s ago"


def test_a_clock_that_is_set_changes_nothing(pulse: Pulse, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pulse.beat()
    real = time.time
    for jump in (-1e6, 1e6):
        monkeypatch.setattr(time, "time", lambda jump=jump: real() + jump)
        assert look(file).alive(90)
    assert heartbeat.CLOCK in (getattr(time, "CLOCK_BOOTTIME", None), time.CLOCK_MONOTONIC)


def test_what_an_ended_process_left_says_nothing(tmp_path: Path) -> None:
    path = tmp_path / "heartbeat"
    assert look(path) == (False, None)
    code = f"import os; from fedwarm.node.heartbeat import *; Pulse(Path({str(path)!r})).beat(); os._exit(0)"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert path.read_text().strip() and not look(path).alive(90) and "no SuperNode" in look(path).told(90)
    Pulse(path).close()
    assert look(path) == (False, None)


def test_two_processes_do_not_share_a_file_and_asking_stands_in_nobodys_way(pulse: Pulse, file: Path) -> None:
    pulse.beat()
    with pytest.raises(BlockingIOError):
        Pulse(file)
    assert look(file).alive(90) and look(file).alive(90)


def test_the_command_and_the_module_tell_by_their_exit_codes(
    pulse: Pulse, file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from fedwarm.cli.app import main

    monkeypatch.setenv("FLWR_HOME", str(file.parent))
    assert place() == file and place("/x") == Path("/x/heartbeat")

    def command(*more: str) -> int:
        monkeypatch.setattr(sys, "argv", ["fedwarm", "node", "alive", *more])
        with pytest.raises(SystemExit) as end:
            main()
        return int(end.value.code or 0)

    def module() -> int:
        words = [sys.executable, "-X", "importtime", "-m", "fedwarm.node.heartbeat"]
        done = subprocess.run(words, capture_output=True, text=True)
        assert not {"typer", "flwr", "psutil", "json"} & {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines()}
        return done.returncode

    assert (command(), module()) == (1, 1)
    assert "fedwarm: the SuperLink has accepted no heartbeat" in capsys.readouterr().err
    pulse.beat()
    assert (command("--within", "90"), module()) == (0, 0)
    assert "last heartbeat" in capsys.readouterr().out
    assert command("--home", str(file.parent / "elsewhere")) == 1
    assert command("--within", "0") == 2
