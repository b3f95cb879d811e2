"""The README's worked example and its commands, run as they stand there."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from fedwarm.launch.run import DEFAULTS_VARIABLE
from tests.runs import SMALL_WARMFED
from tests.shell import call

ROOT = Path(__file__).parents[1]


def test_the_worked_example_runs(tmp_path: Path) -> None:
    """As a file of the current folder, by `module:attribute`."""
    text = (ROOT / "README.md").read_text()
    ((name, code),) = re.findall(r"```python\n# (\S+\.py)\n(.*?)```", text, re.DOTALL)
    (tmp_path / name).write_text(code)
    (command,) = re.findall(r"`(fedwarm run smoothed:COMPONENT [^`]+)`", text)
    out = tmp_path / "run"
    environment = {
        **os.environ, DEFAULTS_VARIABLE: "data.max-examples=40 local-epochs=1",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }  # fmt: skip
    words = f"{command} --workers 2 --rounds 1 --out {out}"
    subprocess.run(words, shell=True, cwd=tmp_path, env=environment, check=True, capture_output=True)
    results = json.loads((out / "results.json").read_text())
    assert results["method"] == "smoothed:COMPONENT" and results["complete"] and results["settings"]["smoothed.share"] == 0.2


TRAINING, QUICK = "fedwarm foundation train", " --vae-steps 2 --unet-steps 2 --images 8 --judged 4 --threads 1"
APP = """
from flwr.app import Message
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

server, client = ServerApp(), ClientApp()


@server.main()
def main(grid, context):
    print("the app ran with", len(list(grid.get_node_ids())), "clients")
"""
PYPROJECT = """
[project]
name = "app"
version = "1.0"

[tool.flwr.app]
publisher = "me"

[tool.flwr.app.components]
serverapp = "own_app:server"
clientapp = "own_app:client"
"""


def prepare(folder: Path) -> None:
    """What the README's commands take for granted: a folder of parquet files, a Flower app, a sweep."""
    import io

    import numpy as np
    import pandas as pd
    from PIL import Image

    def encoded(value: int) -> dict[str, bytes]:
        stream = io.BytesIO()
        Image.fromarray(np.full((8, 8), value, np.uint8)).save(stream, "PNG")
        return {"bytes": stream.getvalue()}

    (folder / "path/to/parquet").mkdir(parents=True)
    rows = [{"image": encoded(20 * i), "label": i % 2, "writer_id": f"w{i % 3}"} for i in range(12)]
    pd.DataFrame(rows * 4).to_parquet(folder / "path/to/parquet/train.parquet")
    (folder / "path/to/app").mkdir()
    (folder / "path/to/app/own_app.py").write_text(APP)
    (folder / "path/to/app/pyproject.toml").write_text(PYPROJECT)
    (folder / "grid.toml").write_text('methods = ["fedavg", "fedprox"]\nseeds = [0, 1]\n')


@pytest.mark.long
def test_the_commands_run_as_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every `fedwarm` line of the README in its order, in an empty folder; the environment makes the runs small.

    They run in this process, which has loaded its libraries; that a shell finds the command is in the test above. A foundation's
    training is no run, and takes its hour whatever the environment says: two steps of it stand for all.
    """
    use = (ROOT / "README.md").read_text().split("## Use")[1].split("## From one machine to many")[0]
    lines = [line.strip().split("  #")[0].strip() for line in use.splitlines() if line.startswith("    fedwarm ")]
    commands = [command.strip() for line in lines for command in line.split(";")]
    assert len(commands) >= 13
    prepare(tmp_path)
    settings = {
        **SMALL_WARMFED, "num-server-rounds": 1, "local-epochs": 1, "data.max-examples": 12, "data.image-size": 32,
        "diffusion.sample-steps": 1, "gen-fedsd.pool": 16, "server-threads": 1,
    }  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(DEFAULTS_VARIABLE, " ".join(f"{key}={json.dumps(value)}" for key, value in settings.items()))
    monkeypatch.setattr("fedwarm.engines.local.run.workers_for", lambda *given: 1)
    assert sum(TRAINING in command for command in commands) == 1
    for command in (c + QUICK if TRAINING in c else c for c in commands):
        name, *words = shlex.split(command)
        assert name == "fedwarm" and call(monkeypatch, *words) == 0, command
    models = [(tmp_path / "runs" / name / "model.safetensors").read_bytes() for name in ("w1", "w2")]
    assert models[0] == models[1]
    assert (tmp_path / "fedwarm-report.html").is_file() and (tmp_path / "runs/sweep-grid/sweep.csv").is_file()
