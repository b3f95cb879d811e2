"""Daemons end with all that they started; a federation of real processes runs an app and tells how it ended."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil  # type: ignore[import-untyped]
import pytest

from fedwarm.core.failures import RunError
from fedwarm.flower.family import lives
from fedwarm.flower.processes import LOOPBACK, MARK, Daemon, environment, executable, free_ports, plain
from fedwarm.flower.writing import write_app
from tests.federation import loopback_federation, write_tiny

STUBBORN = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
open("pids", "a").write(f"{os.getpid()} ")
if len(sys.argv) > 1:
    subprocess.Popen([sys.executable, sys.argv[0]], start_new_session=True)
    if sys.argv[1] == "leave":
        while len(open("pids").read().split()) < 2:
            time.sleep(0.02)
        sys.exit("gone too soon")
print("\\x1b[92mup\\x1b[0m", flush=True)
time.sleep(600)
"""


def stubborn(folder: Path, *, stay: bool = True, patience_seconds: float = 20.0, never: bool = False) -> Daemon:
    """A process that ignores SIGTERM and starts one like it in a session of its own; with `stay` false it leaves that alone."""
    (folder / "stubborn.py").write_text(STUBBORN, encoding="utf-8")
    return Daemon(
        [sys.executable, str(folder / "stubborn.py"), "stay" if stay else "leave"],
        log=folder / "log",
        folder=folder,
        env=os.environ,
        ready=lambda: not never and len(pids(folder)) == 2 and stay,
        patience_seconds=patience_seconds,
        grace_seconds=0.2,
    )


def pids(folder: Path) -> list[int]:
    path = folder / "pids"
    return [int(each) for each in path.read_text().split()] if path.exists() else []


def living(numbers: list[int]) -> list[int]:
    found = []
    for each in numbers:
        with suppress(psutil.Error):
            found += [each] if lives(psutil.Process(each)) else []
    return found


def test_free_ports_are_distinct_and_can_be_bound() -> None:
    ports = free_ports(20)
    assert len(set(ports)) == 20
    assert all(1024 <= port < 65536 for port in ports)


def test_a_free_port_is_none_that_an_outgoing_connection_may_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = tmp_path / "range"
    monkeypatch.setattr("fedwarm.flower.processes.SYSTEM_PORTS", said)
    said.write_text("20400\t60999\n")
    assert all(20000 <= port < 20400 for port in free_ports(20))
    said.write_text("1024\t65535\n")
    assert len(set(free_ports(20))) == 20
    said.unlink()
    assert all(20000 <= port < 49152 for port in free_ports(20))


def test_a_taken_port_is_not_free(monkeypatch: pytest.MonkeyPatch) -> None:
    (port,) = free_ports(1)
    assert port not in free_ports(1)
    monkeypatch.setattr("fedwarm.flower.processes._given", set())
    monkeypatch.setattr("fedwarm.flower.processes.LOWEST_PORT", port)
    monkeypatch.setattr("fedwarm.flower.processes._system_ports_from", lambda: port + 1)
    assert free_ports(1) == [port] and port not in free_ports(1)
    monkeypatch.setattr("fedwarm.flower.processes._given", set())
    with socket.socket() as taken:
        taken.bind((LOOPBACK, port))
        assert port not in free_ports(2)


def test_the_environment_keeps_flower_to_its_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "example.org")
    env = environment(Path("/tmp/home"))
    assert (env["FLWR_HOME"], env["RAY_TMPDIR"]) == ("/tmp/home", "/tmp/home")
    assert (env["FLWR_TELEMETRY_ENABLED"], env["FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION"]) == ("0", "1")
    assert env["NO_PROXY"] == "example.org,127.0.0.1,localhost"
    assert env["PATH"].split(os.pathsep)[0] == str(Path(executable("flwr")).parent)
    assert "RAY_TMPDIR" not in environment(Path("/tmp") / ("long" * 20))


def test_bytecode_goes_elsewhere_only_where_it_may_not_lie_beside_the_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONPYCACHEPREFIX", raising=False)
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    assert "PYTHONPYCACHEPREFIX" not in environment(Path("/tmp/home"))
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    code = Path(str(importlib.util.find_spec("flwr").origin))  # type: ignore[union-attr]
    if (code.parent / "__pycache__").exists():
        assert "PYTHONPYCACHEPREFIX" not in environment(Path("/tmp/home"))
    else:
        assert environment(Path("/tmp/home"))["PYTHONPYCACHEPREFIX"] == "/tmp/home/bytecode"
        assert environment(Path("/tmp/home"), Path("/tmp/other"))["PYTHONPYCACHEPREFIX"] == "/tmp/other"


def test_a_missing_command_is_named() -> None:
    with pytest.raises(RunError, match="no-such-command is not installed"):
        executable("no-such-command")


@pytest.mark.parametrize("error", [None, KeyboardInterrupt])
def test_a_daemon_ends_with_a_detached_family_that_ignores_sigterm(tmp_path: Path, error: type[BaseException] | None) -> None:
    try:
        with stubborn(tmp_path) as daemon:
            assert daemon.alive
            assert len(living(pids(tmp_path))) == 2
            if error is not None:
                raise error
    except KeyboardInterrupt:
        assert error is KeyboardInterrupt
    assert not daemon.alive
    assert living(pids(tmp_path)) == []
    assert "up" in daemon.tail()


def test_a_daemon_that_dies_tells_why_and_its_orphans_end(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="ended before it was ready") as caught, stubborn(tmp_path, stay=False):
        pass
    assert "gone too soon" in caught.value.lines
    assert len(pids(tmp_path)) == 2
    assert living(pids(tmp_path)) == []


def test_a_daemon_that_is_never_ready_is_ended(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"not ready after 0\.5 seconds"), stubborn(tmp_path, never=True, patience_seconds=0.5):
        pass
    assert living(pids(tmp_path)) == []


def test_a_polite_end_of_the_caller_ends_the_daemon(tmp_path: Path) -> None:
    command = f"""
import os, sys, time
from pathlib import Path
from fedwarm.flower.processes import Daemon, ending_on_signals
folder = Path({str(tmp_path)!r})
with ending_on_signals(), Daemon([sys.executable, "-c", "import time; time.sleep(600)"], log=folder / "log", folder=folder,
                                 env=os.environ) as daemon:
    (folder / "mark").write_text(daemon.mark)
    time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", command]) as caller:
        end = time.monotonic() + 20
        while not (tmp_path / "mark").exists() or not (mark := (tmp_path / "mark").read_text()):
            assert time.monotonic() < end
            time.sleep(0.05)
        assert len(marked(mark)) == 1
        caller.send_signal(signal.SIGTERM)
        assert caller.wait(20) == -signal.SIGTERM
    assert marked(mark) == []


def marked(mark: str) -> list[int]:
    """Living processes that carry a daemon's mark."""
    found = []
    for each in psutil.process_iter():
        try:
            if each.environ().get(MARK) == mark and each.status() != psutil.STATUS_ZOMBIE:
                found.append(each.pid)
        except (psutil.Error, OSError):
            continue
    return found


def test_colours_are_taken_off() -> None:
    assert plain("\x1b[92mINFO \x1b[0m:  text") == "INFO :  text"


@pytest.mark.processes
def test_a_loopback_federation_runs_an_app_and_ends(tmp_path: Path) -> None:
    app = write_app(tmp_path / "app", {"out": "", "fails": ""}, server="tiny:server", client="tiny:client")
    write_tiny(app)
    with loopback_federation(tmp_path / "federation", nodes=2) as federation:
        marks = [each.mark for each in (federation.superlink, *federation.nodes)]
        assert all(len(marked(mark)) >= 1 for mark in marks)
        good = federation.submit(app, {"out": str(tmp_path)}, timeout_seconds=180)
        assert good.complaint() is None, federation.report(good)
        assert np.load(tmp_path / "result.npy").tolist() == [1.5, 1.5, 1.5]
        bad = federation.submit(app, {"out": str(tmp_path), "fails": "client"}, timeout_seconds=180)
        assert bad.status == "finished:completed", federation.report(bad)
        reason = "every client failed in every round; first error in the log: ValueError: the client was told to fail"
        assert bad.complaint() == reason, federation.report(bad)
    assert [marked(mark) for mark in marks] == [[], [], []]
