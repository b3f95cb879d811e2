"""Several runs at once: the same bits as one after the other, in the order of what needs what, and nothing left when it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest
from safetensors.numpy import load_file

from fedwarm.cli.run import run
from fedwarm.core.capacity import cores
from fedwarm.core.failures import RunError
from fedwarm.flower.family import lives
from fedwarm.launch.crew import Crew, Ended
from fedwarm.launch.request import Request
from fedwarm.launch.run import QUIET
from fedwarm.launch.study import run_study
from fedwarm.launch.sweep import run_sweep
from fedwarm.launch.sweep_file import Job
from fedwarm.record.lock import refuse_busy
from fedwarm.settings.fields import SettingError
from tests.runs import same
from tests.waiting import wait_until

SMALL = """
clients = 2
[settings]
num-server-rounds = 1
local-epochs = 1
data.max-examples = 12
data.image-size = 8
data.validation-fraction = 0.3
model.name = "logistic"
"""
ENDLESS = {
    "method": "fedavg",
    "num-server-rounds": 10**6,
    "data.max-examples": 12,
    "data.image-size": 8,
    "model.name": "logistic",
}
until = partial(wait_until, seconds=600.0)
TUNING = """
[tuning]
seeds = [101]
grid = { learning-rate = [0.01, 0.1] }
"""


@pytest.fixture(autouse=True)
def _shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in (*QUIET, "FEDWARM_ENGINE"):
        monkeypatch.setenv(name, "1")
    for name in ("FEDWARM_DEBUG", "OMP_WAIT_POLICY", "FEDWARM_CORES"):
        monkeypatch.delenv(name, raising=False)


def file(text: str) -> Path:
    Path("some.toml").write_text(text)
    return Path("some.toml")


def test_a_sweep_at_once_is_the_sweep_one_after_the_other(capsys: pytest.CaptureFixture[str]) -> None:
    """Runs that fail are noted in both, each with the file of all that it said."""
    path = file("methods = ['fedavg', 'fedprox']\nseeds = [1, 2]\n" + SMALL)
    for folder in ("one", "two"):
        Path(folder).mkdir()
        Path(folder, "fedprox-seed-1").write_text("in the way")
    with pytest.raises(RunError, match="^1 of 4 runs failed"):
        run_sweep(path, Path("one"), workers=1)
    capsys.readouterr()
    with pytest.raises(RunError, match="^1 of 4 runs failed"):
        run_sweep(path, Path("two"), jobs=2)
    said = capsys.readouterr().err
    for name in ("fedavg-seed-1", "fedavg-seed-2", "fedprox-seed-2"):
        assert same(*(load_file(Path(folder, name, "model.safetensors")) for folder in ("one", "two")))
        assert "global accuracy" in Path("two/logs", f"{name}.log").read_text()
    log = Path("two/logs/fedprox-seed-1.log").absolute()
    assert "failed: fedprox-seed-1: --out two/fedprox-seed-1" in said.replace(f"{Path.cwd()}/", "")
    assert f"(all that it said: {log})" in said and "failed: fedprox-seed-1" in log.read_text()
    assert [f"sweep: run {n} of 4: " in said for n in (1, 2, 3, 4, 5)] == [True] * 4 + [False]
    for folder in ("one", "two"):
        Path(folder, "fedprox-seed-1").unlink()
        run_sweep(path, Path(folder), jobs=2)
    accuracies = [[line.split(",")[3] for line in Path(each, "sweep.csv").read_text().splitlines()] for each in ("one", "two")]
    assert accuracies[0] == accuracies[1] and "3 of 4 runs are complete already" in capsys.readouterr().err


def test_a_study_at_once_is_the_study_one_after_the_other(capsys: pytest.CaptureFixture[str]) -> None:
    """With settings that are chosen, and arms that start from what was chosen for another."""
    arms = """
        [[arms]]
        name = "first"
        method = "fedavg"
        [[arms]]
        name = "then"
        method = "fedavg"
        start = "first"
        [[arms]]
        name = "plain"
        method = "fedavg"
        grid = {}
    """
    path = file("seeds = [1, 2]\n" + SMALL + TUNING + arms)
    told = []
    for number, folder in ((1, "one"), (3, "two")):
        found = run_study(path, Path(folder), jobs=number)
        document = json.loads((found / "study.json").read_text())
        told.append(([(row["arm"], row["found"]) for row in document["rows"]], document["choices"]))
        said = capsys.readouterr().err
        assert said.count("study: run ") == 10 and "study: run 10 of 10: " in said and "best of 2 on held-back" in said
    assert told[0] == told[1]
    run_study(path, Path("two"), jobs=3)
    assert "study: run" not in capsys.readouterr().err


def test_what_fails_in_a_study_is_told_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """A base that fails at a seed of tuning, and what would have started from it."""
    arms = """
        [[arms]]
        name = "first"
        method = "fedavg"
        grid = {}
        [[arms]]
        name = "then"
        method = "fedavg"
        start = "first"
    """
    path = file("seeds = [1, 2]\n" + SMALL + TUNING + arms)
    told = []
    for number, folder in ((1, "one"), (2, "two")):
        Path(folder).mkdir()
        Path(folder, "first-seed-101").write_text("in the way")
        with pytest.raises(RunError, match="^2 runs failed; the same command tries them again$"):
            run_study(path, Path(folder), jobs=number)
        document = json.loads(Path(folder, "study.json").read_text())
        failures = {name: line.replace(f"{Path.cwd()}/{folder}", "") for name, line in document["failures"].items()}
        told.append((failures, [*document["choices"].items()], [(row["arm"], row["found"]) for row in document["rows"]]))
    assert told[0] == told[1] and set(told[0][0]) == {"first-seed-101", "then-seed-101"}


def endless(seed: int) -> Job:
    """A run that does not end by itself."""
    return Job("fedavg", seed, {}, ENDLESS, f"endless {seed}")


def short(seed: int) -> Job:
    """A run of one round."""
    return Job("fedavg", seed, {}, ENDLESS | {"num-server-rounds": 1}, f"short {seed}")


def done(crew: Crew, *jobs: Job, heard: Callable[[dict[str, Ended]], None] = lambda ended: None) -> dict[str, str]:
    """The lines that runs ended with, by name; `heard` is called with all that have ended, after each."""
    ended: dict[str, Ended] = {}
    for each in crew.work(lambda: [job for job in jobs if job.name not in ended], lambda job: None):
        ended[each.job.name] = each
        heard(ended)
    return {name: each.line for name, each in ended.items()}


def at_work(folder: Path) -> bool:
    """Whether a run has kept its first stage."""
    return (folder / "checkpoint").exists()


def gone(processes: Sequence[psutil.Process]) -> bool:
    """Whether processes have ended; those that nobody has asked after count, too."""
    return not any(map(lives, processes))


def test_a_process_that_dies_costs_its_run_alone(tmp_path: Path) -> None:
    """With all that it had begun; the others go on, and a new process takes its place."""
    lost, family = endless(1), list[psutil.Process]()

    def kill_it(ended: dict[str, Ended]) -> None:
        """Once the two others are done."""
        if lost.name not in ended and len(ended) == 2:
            until(lambda: at_work(tmp_path / lost.name))
            (hand,) = [hand for hand in two._hands if hand.job is lost]
            family[:] = [process := psutil.Process(hand.process.pid), *process.children(recursive=True)]
            os.kill(process.pid, signal.SIGKILL)

    with closing(Crew(2, tmp_path, Request("", clients=2, workers=2), fresh=False)) as two:
        lines = done(two, lost, short(2), short(3), heard=kill_it)
    assert lines[lost.name] == "its process was killed (signal 9); if memory was short, ask for fewer --jobs"
    assert [lines[short(seed).name] for seed in (2, 3)] == ["", ""] and len(family) > 1
    until(lambda: gone(family))


def test_one_that_dies_while_it_is_idle_costs_nothing(tmp_path: Path) -> None:
    first, second = short(1), short(2)
    with closing(Crew(1, tmp_path, Request("", clients=2, workers=1), fresh=False)) as one:
        assert done(one, first) == {first.name: ""}
        (hand,) = one._hands
        hand.process.kill()
        hand.process.join()
        assert done(one, second) == {second.name: ""}
        assert one._hands != [hand]


def test_what_cannot_be_written_or_breaks_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A log in whose place a folder lies; and with FEDWARM_DEBUG, where a run broke."""
    monkeypatch.setenv("FEDWARM_DEBUG", "1")
    job, broken = short(1), Job("fedavg", 2, {}, {"data.name": str(tmp_path / "none")}, "broken")
    (tmp_path / "logs" / f"{job.name}.log").mkdir(parents=True)
    with closing(Crew(1, tmp_path, Request("", clients=2, workers=1), fresh=False)) as one:
        lines = done(one, job, broken)
    assert lines[job.name].endswith(f"{job.name}.log cannot be written: Is a directory; name another folder")
    assert str(tmp_path / "none") in lines[broken.name]
    assert "Traceback" in (said := capsys.readouterr().err) and "SettingError" in said


def test_what_is_under_way_is_ended_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each run's folder is free afterwards and holds what it had reached; its process had a share of the cores."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1000000")
    monkeypatch.setenv("MKL_NUM_THREADS", "1")
    share = str(max(1, cores() // 2))
    with closing(Crew(2, tmp_path, Request("", clients=2), fresh=False)) as two:
        jobs = [endless(1), endless(2)]
        for job in jobs:
            two._begin(job)
        until(lambda: all(at_work(tmp_path / job.name) for job in jobs))
        processes = [psutil.Process(hand.process.pid) for hand in two._hands]
        surroundings = [process.environ() for process in processes]
    for job in jobs:
        refuse_busy(tmp_path / job.name)
        assert at_work(tmp_path / job.name)
    assert gone(processes)
    names = ("FEDWARM_CORES", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_WAIT_POLICY")
    assert [[each[name] for name in names] for each in surroundings] == [[share, share, "1", "PASSIVE"]] * 2
    assert os.environ["OMP_NUM_THREADS"] == "1000000" and not {"OMP_WAIT_POLICY", "FEDWARM_CORES"} & {*os.environ}


def test_nothing_goes_on_where_the_one_that_gave_it_out_was_killed(tmp_path: Path) -> None:
    path = file("methods = ['fedavg']\nseeds = [1, 2]\n" + SMALL.replace("rounds = 1", "rounds = 1000000"))
    words = [
        sys.executable,
        "-c",
        "from fedwarm.cli.app import main; main()",
        "run",
        "--sweep",
        str(path),
        "--jobs",
        "2",
        "--workers",
        "1",
        "--out",
        "out",
    ]
    whole = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until(lambda: all(at_work(Path(f"out/fedavg-seed-{seed}")) for seed in (1, 2)))
        family = psutil.Process(whole.pid).children(recursive=True)
    finally:
        whole.kill()
        whole.wait()
    assert len(family) > 1
    until(lambda: gone(family))


def test_where_runs_cannot_be_at_once_it_is_said() -> None:
    with pytest.raises(SettingError, match="--jobs 2 cannot be used with --engine deployment, as a federation does one run"):
        run_sweep(file("methods = ['fedavg']\n" + SMALL.replace("clients = 2", "")), engine="deployment", jobs=2)
    with pytest.raises(SettingError, match="--jobs 2 cannot be used with client-folder, where a run removes"):
        run_sweep(file("methods = ['fedavg']\n" + SMALL + "client-folder = '/tmp/all'"), jobs=2)
    with pytest.raises(SettingError, match="--jobs 2 is for the runs of a sweep"):
        run("fedavg", jobs=2)
