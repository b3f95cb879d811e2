"""A package that somebody else wrote (`tests/outsider`), installed beside fedwarm's wheel: its components are found and run.

The environment is fresh but for what fedwarm depends on, which is read where it lies: neither the checkout nor what was made of
it is on the path.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from tests.runs import same

ROOT = Path(__file__).parents[1]
SMALL = "num-server-rounds=2 local-epochs=1 data.max-examples=30 server-threads=1"
ALL = {
    "near-start": "near-start.weight=0.01",
    "lazy-server": "lazy-server.memory=0.3",
    "fedavg -c codec='top-k'": "top-k.share=0.05",
    "fedavg -c model.name='narrow'": "narrow.width=4",
    "fedavg -c data.name='stripes' -c data.partition='iid'": "",
    "fedavg -c data.partition='uneven'": "uneven.factor=0.5",
    "fedavg -c robust.rule='middle'": "data.partition='iid'",
    "fedavg -c tracker='lines'": "",
    "fedavg -c objective='confident'": "confident.weight=0.2",
}
TOGETHER = (
    "codec='top-k' model.name='narrow' data.name='stripes' data.partition='uneven' robust.rule='middle' tracker='lines' "
    "objective='confident' near-start.weight=0.01 uneven.factor=0.8 top-k.share=0.5"
)
Command = Callable[..., str]


@pytest.fixture(scope="module")
def fedwarm(tmp_path_factory: pytest.TempPathFactory) -> Command:
    """The command of the environment, as a function of its words; it returns what was printed."""
    folder = tmp_path_factory.mktemp("outsider")
    env, empty = folder / "env", folder / "empty"
    empty.mkdir()
    for source in (ROOT, ROOT / "tests" / "outsider"):
        words = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder / "wheels")]
        subprocess.run(words, cwd=source, check=True, capture_output=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(env)], check=True)
    (site,) = (env / "lib").glob("python3*/site-packages")
    flower = f"flwr=={importlib.metadata.version('flwr')}"  # for its commands: the others' first line names another Python
    wheels = [str(path) for path in sorted((folder / "wheels").glob("*.whl"))]
    python = str(env / "bin" / "python")
    subprocess.run(
        [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--no-deps", "--python", python, *wheels, flower], check=True
    )
    (site / "shared.pth").write_text(f"{next(Path(p) for p in sys.path if p.endswith('site-packages'))}\n")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "FEDWARM"))}

    def call(*words: str, fails: bool = False) -> str:
        path = f"{env / 'bin'}{os.pathsep}{environment['PATH']}"
        command = [str(env / "bin" / "fedwarm"), *words]
        done = subprocess.run(command, cwd=empty, env={**environment, "PATH": path}, capture_output=True, text=True, timeout=500)
        assert (done.returncode != 0) is fails, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout + done.stderr

    return call


@pytest.mark.long
def test_they_are_listed_with_whence_they_come(fedwarm: Command) -> None:
    told = fedwarm("components")
    for name in ("near_start", "lazy_server", "top-k", "narrow", "stripes", "uneven", "middle", "lines", "confident"):
        assert f"  {name}" in told, name
    assert "outsider" in fedwarm("components", "codec") and "top-k.share" in fedwarm("settings", "top-k")


@pytest.mark.long
def test_an_unknown_name_gets_theirs_among_the_near_ones(fedwarm: Command) -> None:
    told = fedwarm("run", "fedavg", "-c", "codec='topk'", fails=True)
    assert "'topk' is no codec (did you mean top-k" in told and "\n" not in told.strip()


@pytest.mark.long
@pytest.mark.parametrize("words", ALL)
def test_each_of_them_runs(words: str, fedwarm: Command, tmp_path: Path) -> None:
    method, *chosen = words.split(" -c ")
    given = [word for text in (*chosen, ALL[words], SMALL) if text for word in ("-c", text)]
    fedwarm("run", method, "--clients", "3", "--out", str(tmp_path / "run"), *given)
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["complete"] and results["rounds"][-1]["global"]["accuracy"] is not None
    plain = method == "fedavg" and "tracker='lines'" in words
    assert (tmp_path / "run" / "lines.txt").exists() is plain


@pytest.mark.alone
@pytest.mark.long
def test_all_of_them_together_give_one_model_on_every_engine(fedwarm: Command, tmp_path: Path) -> None:
    place = ["--federation", str(tmp_path / "federation")]
    fedwarm("federation", "up", "--nodes", "3", *place)
    try:
        for engine, more in (("local", ["--workers", "2"]), ("ray", []), ("deployment", place)):
            out = ["--out", str(tmp_path / engine), "-c", TOGETHER, "-c", SMALL]
            fedwarm("run", "near-start", "--engine", engine, "--clients", "3", *more, *out)
    finally:
        fedwarm("federation", "down", *place)
    models = [load_file(tmp_path / engine / "model.safetensors") for engine in ("local", "ray", "deployment")]
    assert all(same(model, models[0]) for model in models)
    assert (tmp_path / "ray" / "lines.txt").read_text() == (tmp_path / "local" / "lines.txt").read_text() != ""
