"""How workers start: forked by a thread that has computed nothing; spawned where a GPU's driver may have been spoken to."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch

from fedwarm.core import forking
from fedwarm.core.compute import torch_threads

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux alone")
CHILD_SECONDS = 30.0


def computed() -> float:
    """Something that torch does with all of its threads."""
    torch.randn(400, 400) @ torch.randn(400, 400)
    layer = torch.nn.Conv2d(3, 8, 3)
    layer(torch.randn(16, 3, 32, 32)).sum().backward()  # type: ignore[no-untyped-call]
    return float(layer.weight.detach().sum())


def compute_with_two() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in a main thread, which this one is now
    torch.set_num_threads(2)
    computed()
    assert threading.current_thread() is threading.main_thread()


@LINUX
@pytest.mark.skipif(torch.cuda.is_available(), reason="beside a GPU workers are spawned: torch refuses to train in a fork there")
def test_a_fork_after_torch_computed_with_threads_computes_with_threads() -> None:
    with torch_threads(2):
        computed()
        process = get_context("fork").Process(target=compute_with_two)
        forking.begin(process, forking.FORK)
        process.join(CHILD_SECONDS)
        if process.exitcode is None:
            process.kill()
            process.join()
    assert process.exitcode == 0


@LINUX
@pytest.mark.skipif(torch.cuda.is_available(), reason="beside a GPU workers are spawned in any case")
@pytest.mark.long
def test_where_a_fork_could_not_train_workers_are_spawned() -> None:
    """An export to ONNX before the first backward pass makes a device known, and the pass then starts torch's threads."""
    program = (
        "import torch\n"
        "from fedwarm.core.forking import start_method\n"
        "if __name__ == '__main__':\n"
        "    torch.set_num_threads(1)\n"
        "    print(start_method())\n"
        "    torch.onnx.export(torch.nn.Linear(3, 2).eval(), (torch.ones(1, 3),), dynamo=True, verbose=False)\n"
        "    print(start_method())\n"
        "    torch.ones(1, requires_grad=True).sum().backward()\n"
        "    print(start_method())\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    assert done.stdout.split() == ["fork", "fork", "spawn"], done.stderr


def test_a_process_that_cannot_start_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def full() -> int:
        raise OSError("no more processes")

    process = get_context("fork").Process(target=print)
    monkeypatch.setattr(os, "fork", full)
    with pytest.raises(OSError, match="no more processes"):
        forking.begin(process, forking.FORK)


@LINUX
def test_where_there_is_a_gpu_workers_are_spawned(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(forking, "OPEN_FILES", tmp_path)
    assert forking.start_method() == "fork"
    (tmp_path / "3").symlink_to("/dev/null")
    assert forking.start_method() == "fork"
    (tmp_path / "4").symlink_to("/dev/nvidiactl")
    assert forking.start_method() == "spawn"
    (tmp_path / "4").unlink()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert forking.start_method() == "spawn"


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_elsewhere_workers_are_spawned(monkeypatch: pytest.MonkeyPatch, platform: str) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    assert forking.start_method() == "spawn"


@pytest.mark.gpu
def test_clients_of_a_gpu_machine_all_train(tmp_path: Path) -> None:
    """By the command line, whose checks look for the GPU before workers begin; then from a process that has computed on it."""
    program = (
        "import sys, torch\n"
        "from fedwarm.launch.run import Request, run_method\n"
        "from pathlib import Path\n"
        "if __name__ == '__main__':\n"
        "    torch.randn(8, 8, device='cuda').sum().item()\n"
        "    pairs = ('client-threads=2', 'data.max-examples=40', \"data.partition='iid'\")\n"
        "    run_method(Request('fedavg', out=Path(sys.argv[1]), rounds=1, clients=4, workers=2, run_config=pairs))\n"
    )
    fedwarm = [sys.executable, "-c", "from fedwarm.cli.app import main; main()"]
    given = ["fedavg", "--clients", "32", "--workers", "4", "--rounds", "1", "-c", "data.partition='iid'"]
    for i, command in enumerate(([*fedwarm, "run", *given, "--out"], [sys.executable, "-c", program])):
        done = subprocess.run([*command, str(tmp_path / str(i))], capture_output=True, text=True, timeout=300)
        assert done.returncode == 0 and "CUDA" not in done.stderr, done.stderr
