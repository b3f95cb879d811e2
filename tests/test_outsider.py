"""A package that somebody else wrote (`tests/outsider`), installed beside fedwarm's wheel: its components are found and run.

The environment is fresh but for what fedwarm depends on, which is read where it lies: neither the checkout nor what was made of
it is on the path.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from tests.runs import same

pytestmark = [pytest.mark.processes, pytest.mark.long]
ROOT = Path(__file__).parents[1]
SMALL = "num-server-rounds=2 local-epochs=1 data.max-examples=30 server-threads=1"
ALL = {
    "near-start": "near-start.weight=0.01",
    "lazy-server": "lazy-server.memory=0.3",
    "fedavg -c codec='largest'": "largest.share=0.05",
    "fedavg -c model.name='narrow'": "narrow.width=4",
    "fedavg -c data.name='stripes' -c data.partition='iid'": "",
    "fedavg -c data.partition='uneven'": "uneven.factor=0.5",
    "fedavg -c robust.rule='middle'": "data.partition='iid'",
    "fedavg -c tracker='lines'": "",
    "fedavg -c objective='confident'": "confident.weight=0.2",
    "fedavg -c optimiser='signed'": "signed.power=0.5",
    "fedavg -c task='events' -c data.name='diabetes' -c model.name='mlp'": "learning-rate=1e-5",
}
RUN = """import json, sys
from fedwarm.cli.app import app
for words in json.loads(sys.argv[1]):
    app(words, standalone_mode=False)
"""
TOGETHER = (
    "codec='largest' model.name='narrow' data.name='stripes' data.partition='uneven' robust.rule='middle' tracker='lines' "
    "objective='confident' optimiser='signed' near-start.weight=0.01 uneven.factor=0.8 largest.share=0.5"
)
NAMES = (
    "near_start", "lazy_server", "largest", "narrow", "stripes", "uneven", "middle", "lines", "confident", "signed", "events",
)  # fmt: skip
Command = Callable[..., str]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the environment."""
    folder = tmp_path_factory.mktemp("outsider")
    env = folder / "env"
    for source in (ROOT, ROOT / "tests" / "outsider"):
        words = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder / "wheels")]
        subprocess.run(words, cwd=source, check=True, capture_output=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(env)], check=True)
    (site,) = (env / "lib").glob("python3*/site-packages")
    flower = f"flwr=={importlib.metadata.version('flwr')}"  # for its commands: the others' first line names another Python
    wheels = [str(path) for path in sorted((folder / "wheels").glob("*.whl"))]
    python = str(env / "bin" / "python")
    subprocess.run(
        [sys.executable, "-m", "uv", "pip", "install", "--offline", "--quiet", "--no-deps", "--python", python, *wheels, flower],
        check=True,
    )
    (site / "shared.pth").write_text(f"{next(Path(p) for p in sys.path if p.endswith('site-packages'))}\n")
    return env


def environment(place: Path) -> dict[str, str]:
    """Variables in which the environment's commands come first, and nothing of this process's own."""
    found = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "FEDWARM", "PYTEST"))}
    return {**found, "PATH": f"{place / 'bin'}{os.pathsep}{found['PATH']}"}


@pytest.fixture(scope="module")
def fedwarm(place: Path) -> Command:
    """The command of the environment, as a function of its words; it returns what was printed."""
    empty = place.with_name("empty")
    empty.mkdir()

    def call(*words: str, fails: bool = False) -> str:
        command = [str(place / "bin" / "fedwarm"), *words]
        done = subprocess.run(command, cwd=empty, env=environment(place), capture_output=True, text=True, timeout=500)
        assert (done.returncode != 0) is fails, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout + done.stderr

    return call


def test_they_are_listed_with_whence_they_come(fedwarm: Command) -> None:
    told = fedwarm("components")
    for name in NAMES:
        assert f"  {name}" in told, name
    assert "outsider" in fedwarm("components", "codec") and "largest.share" in fedwarm("settings", "largest")


def test_an_unknown_name_gets_theirs_among_the_near_ones(fedwarm: Command) -> None:
    told = fedwarm("run", "fedavg", "-c", "codec='largst'", fails=True)
    assert "'largst' is not a known codec (did you mean largest" in told and "\n" not in told.strip()


@pytest.fixture(scope="module")
def runs(place: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run with each of them by its words, one after another in one process of the environment."""
    folder = tmp_path_factory.mktemp("runs")
    found, commands = {words: folder / str(number) for number, words in enumerate(ALL)}, []
    for words, out in found.items():
        method, *chosen = words.split(" -c ")
        given = [word for text in (*chosen, ALL[words], SMALL) if text for word in ("-c", text)]
        commands.append(["run", method, "--clients", "3", "--workers", "1", "--out", str(out), *given])
    command = [str(place / "bin" / "python"), "-c", RUN, json.dumps(commands)]
    done = subprocess.run(command, cwd=folder, env=environment(place), capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return found


@pytest.mark.parametrize("words", ALL)
def test_each_of_them_runs(words: str, runs: dict[str, Path]) -> None:
    method, run = words.split(" -c ")[0], runs[words]
    results = json.loads((run / "results.json").read_text())
    measured = results["rounds"][-1]["global"]
    assert results["complete"] and (measured["accuracy"] is not None or measured["metrics"]["rmse"]["value"] > 0)
    plain = method == "fedavg" and "tracker='lines'" in words
    assert (run / "lines.txt").exists() is plain


def test_each_of_them_keeps_what_all_components_of_its_kind_keep_to(place: Path) -> None:
    """The contract tests run over all names there are: in this environment theirs are among them."""
    copy = place.with_name("copy")
    shutil.copytree(
        ROOT / "tests", copy / "tests", ignore=shutil.ignore_patterns("outsider", "fedwarm", "strategies", "__pycache__")
    )
    words = [
        str(place / "bin" / "python"),
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:randomly",
        "--import-mode=importlib",
        "tests/contracts",
    ]
    done = subprocess.run([*words, "-k", " or ".join(NAMES)], cwd=copy, env=environment(place), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    passed = int(done.stdout.split(" passed")[0].split()[-1])
    assert passed >= 3 * len(NAMES), done.stdout[-500:]


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
    told = [(tmp_path / engine / "lines.txt").read_text().splitlines() for engine in ("local", "ray", "deployment")]
    assert all([line.split(" bytes")[0] for line in lines] == [line.split(" bytes")[0] for line in told[0]] for lines in told)
    assert len(told[0]) >= 2
