"""One process in a run folder: who is refused, and whose lock is taken over."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fedwarm.launch.run import Request, run_method
from fedwarm.launch.sweep import run_sweep
from fedwarm.record import lock
from fedwarm.record.folder import RunFolder
from fedwarm.record.lock import LOCK, Lock, Owner, refuse_busy
from fedwarm.settings.fields import SettingError, Value
from strategies.fedavg import FedAvg
from tests.runs import run

HOLDER = "from pathlib import Path; import os, signal, sys; from fedwarm.record.lock import Lock; p = Path(sys.argv[1])\n"


def left(folder: Path, **owner: Any) -> None:
    """A lock file that nobody holds."""
    folder.mkdir(exist_ok=True)
    (folder / LOCK).write_text(json.dumps({**vars(Owner.me()), **owner}))


def taken(folder: Path) -> bool:
    with Lock(folder).held():
        return Owner.read(folder / LOCK) == Owner.me()


def test_a_folder_in_use_is_refused_and_free_afterwards(tmp_path: Path) -> None:
    with Lock(tmp_path / "new" / "run").held():
        assert (tmp_path / "new" / "run" / LOCK).exists()
    assert not (tmp_path / "new").exists(), "made for the lock alone"
    mine = Lock(tmp_path / "run")
    with mine.held(), mine.held():
        for again in (lambda: refuse_busy(tmp_path / "run"), lambda: taken(tmp_path / "run")):
            with pytest.raises(SettingError, match=f"run is in use by process {os.getpid()} on this host") as caught:
                again()
            assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists(), "made for the lock alone"
    refuse_busy(tmp_path / "run")
    refuse_busy(tmp_path)
    (tmp_path / "run").mkdir()
    assert taken(tmp_path / "run") and list((tmp_path / "run").iterdir()) == []


def test_a_killed_process_blocks_nobody(tmp_path: Path) -> None:
    program = HOLDER + "with Lock(p).held(): os.kill(os.getpid(), signal.SIGKILL)"
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], cwd=Path(__file__).parents[3], check=False)
    assert done.returncode == -signal.SIGKILL and (tmp_path / LOCK).exists()
    refuse_busy(tmp_path)
    RunFolder(tmp_path).refuse_other()
    assert taken(tmp_path) and not (tmp_path / LOCK).exists()


def test_another_host_is_named_with_what_removes_its_lock(tmp_path: Path) -> None:
    left(tmp_path, host="far", boot="another", pid=7)
    for again in (lambda: refuse_busy(tmp_path), lambda: taken(tmp_path)):
        with pytest.raises(SettingError, match=f"process 7 on far; if that host is gone.* rm {tmp_path / LOCK}$"):
            again()
    left(tmp_path, host=socket.gethostname(), boot="before it was started anew")
    assert taken(tmp_path)


def test_a_file_that_says_nothing_blocks_nobody(tmp_path: Path) -> None:
    for text in ("", "{", "[1]", '{"host": 3}'):
        (tmp_path / LOCK).write_text(text)
        assert taken(tmp_path)


def test_where_the_disk_knows_no_locks_the_process_is_looked_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    left(tmp_path)
    with pytest.raises(SettingError, match=f"process {os.getpid()} on this host"):
        refuse_busy(tmp_path)
    left(tmp_path, begun="1")  # the number is another process's now
    assert taken(tmp_path)
    left(tmp_path, pid=2**22 + 1, begun=Owner.me().begun)
    assert taken(tmp_path)


def test_a_process_that_was_forked_holds_nothing(tmp_path: Path) -> None:
    """Workers live on for a moment when their parent was killed, and must not block who goes on."""
    reading, writing = os.pipe()
    with Lock(tmp_path).held():
        child = os.fork()
        if child == 0:
            os.close(writing)
            os.read(reading, 1)
            os._exit(0)
    try:
        assert taken(tmp_path)
    finally:
        os.close(writing)
        os.waitpid(child, 0)
        os.close(reading)


def test_the_beginning_of_a_process() -> None:
    assert lock.begun(os.getpid()) and lock.begun(os.getpid()) == lock.begun(os.getpid())
    assert lock.begun(os.getppid()) != "" and lock.begun(2**22 + 1) == ""


def test_nobody_comes_into_the_folder_of_a_run_at_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A resume, a fresh run, a sweep, a strategy of somebody's program: each is refused, and the run ends as if alone."""
    settings: dict[str, Value] = {"num-server-rounds": 1, "local-epochs": 1, "data.max-examples": 8}
    place, text = tmp_path / "fedavg-seed-0", "data.max-examples=8 local-epochs=1"
    monkeypatch.chdir(tmp_path)
    grid = "methods = ['fedavg']\n[settings]\ndata.max-examples = 8\nlocal-epochs = 1\nnum-server-rounds = 1\n"
    (tmp_path / "grid.toml").write_text(grid)
    attempts = [
        lambda: run_method(Request("", out=place, resume=True)),
        lambda: run_method(Request("fedavg", out=place, fresh=True, clients=2, run_config=(text,))),
        lambda: run_method(Request("fedavg", out=place, clients=2, run_config=(text,))),
        lambda: run_method(Request("fedavg", "ray", out=place, resume=True)),
        lambda: run_sweep(Path("grid.toml"), tmp_path, clients=2),
        lambda: FedAvg(None, RunFolder(place), data__max_examples=8).start(None),  # type: ignore[arg-type]
        lambda: run("fedavg", place, {**settings, "resume": True}, clients=2),
    ]
    refused: list[str] = []

    def come(message: object) -> None:
        while attempts:
            with pytest.raises(SettingError, match="fedavg-seed-0 is in use by process") as caught:
                attempts.pop()()
            refused.append(str(caught.value))

    outcome = run("fedavg", place, settings, clients=2, listen=come)
    assert len(refused) == 7 and not any("\n" in line for line in refused)
    assert outcome.results["complete"] and len(outcome.ledger) == 4 and not (place / LOCK).exists()
    assert not (tmp_path / LOCK).exists()
