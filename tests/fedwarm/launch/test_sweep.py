"""Sweeps: what a file may say, which runs follow from it, and real small runs that are skipped, resumed, failed and compared."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from fedwarm.catalogue import parse
from fedwarm.core.failures import Interrupted, RunError
from fedwarm.launch import run as launch
from fedwarm.launch.sweep import run_sweep
from fedwarm.launch.sweep_file import jobs, read_sweep
from fedwarm.record.folder import RunFolder
from fedwarm.record.reading import read_run
from fedwarm.settings.fields import SettingError
from fedwarm.settings.text import parse_overrides
from tests.report_page import Page, results, settings, write
from tests.runs import same

SMALL = "seeds = [0, 1]\nclients = 2\n[settings]\nnum-server-rounds = 2\ndata.max-examples = 8\n"


@pytest.fixture(autouse=True)
def _shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An empty working directory; what a run changes in the process is put back."""
    monkeypatch.chdir(tmp_path)
    for name in (*launch.QUIET, "FEDWARM_ENGINE"):
        monkeypatch.setenv(name, "1")
    monkeypatch.delenv("FEDWARM_DEBUG", raising=False)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def file(text: str, name: str = "grid.toml") -> Path:
    Path(name).write_text(text)
    return Path(name)


def table(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "sweep.csv").read_text().splitlines()))


# What a file says


def test_every_method_takes_part_in_its_own_keys_and_the_common_ones() -> None:
    text = """
        methods = ["FedAvg", "fedprox", "local-only"]
        seeds = [3, 1]
        [settings]
        batch-size = 16
        [grid]
        local-epochs = [1, 2]
        fedprox.mu = [0.1, 1.0]
    """
    found = jobs(read_sweep(file(text)), "grid.toml")
    assert [job.name for job in found] == [
        *(f"fedavg-local-epochs-{e}-seed-{s}" for e in (1, 2) for s in (3, 1)),
        *(f"fedprox-local-epochs-{e}-mu-{mu}-seed-{s}" for e in (1, 2) for mu in (0.1, 1.0) for s in (3, 1)),
        *(f"local_only-local-epochs-{e}-seed-{s}" for e in (1, 2) for s in (3, 1)),
    ]
    assert found[4].cell == "fedprox, local-epochs=1, fedprox.mu=0.1"
    assert found[7].flat == {"batch-size": 16, "local-epochs": 1, "fedprox.mu": 1.0, "method": "fedprox", "seed": 1}


def test_values_reach_a_run_as_they_are() -> None:
    """What `-c` would be given is read back as what the file says; names keep unlike values apart."""
    text = r"""
        methods = ["warmfed"]
        [settings]
        learning-rate = 1e-5
        save-pictures = false
        model.weights = 'it"s'
        [grid]
        "warmfed.prompt" = ["a {class}", "a+{class}", "the king's {class}", "two\nlines {class}", "é {class}"]
        data.alpha = [1, 0.25]
    """
    found = jobs(read_sweep(file(text)), "grid.toml")
    assert len({job.name for job in found}) == 10
    assert all(Path(job.name).name == job.name and job.name.isascii() for job in found)
    for job in found:
        assert parse_overrides(job.pairs) == job.settings
    assert found[4].settings["warmfed.prompt"] == "the king's {class}"


def test_paths_are_told_apart_from_names_as_a_run_does(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (job, other) = jobs(read_sweep(file('methods = ["fedavg"]\n[grid]\ndata.name = ["photos", "digits"]')), "grid.toml")
    assert job.flat["data.name"] == str(tmp_path / "photos") and other.flat["data.name"] == "digits"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("methods = [", ["is not valid TOML"]),
        ("method = ['fedavg']", ["unknown key 'method'", "did you mean methods"]),
        ("methods = 'fedavg'", ["methods = 'fedavg' is str", "list"]),
        ("methods = []", ["methods = [] is empty"]),
        ("methods = ['fedavg', 3]", ["methods holds 3, which is int", "str"]),
        ("methods = ['fedporx']", ["'fedporx' is not a known method", "did you mean fedprox"]),
        ("seeds = 3", ["seeds = 3 is int", "list"]),
        ("seeds = []", ["seeds = [] is empty"]),
        ("seeds = [true]", ["seeds holds True, which is bool", "int"]),
        ("seeds = [1, 2, 1]", ["seeds holds 1 more than once"]),
        ("seeds = [-1]", ["seed = -1 is out of range"]),
        ("clients = 2.5", ["clients = 2.5 is float", "int"]),
        ("clients = true", ["clients = True is bool", "int"]),
        ("clients = -2", ["clients = -2 is out of range"]),
        ("settings = 3", ["settings = 3 is int", "dict"]),
        ("[settings]\nlerning-rate = 0.1", ["unknown setting 'lerning-rate'", "did you mean learning-rate"]),
        ("[settings]\nbatch-size = [1, 2]", ["batch-size = [1, 2]", "must be a text, a number"]),
        ("[settings]\nseed = 3", ["seed cannot stand in a sweep's file", "`seeds`"]),
        ("[settings]\nbatch-size = 8\n[grid]\nbatch-size = [8]", ["batch-size is set for all runs and stands in the grid"]),
        ("[settings]\nmodel.weights = '''a'b\"c'''", ["model.weights", "both kinds of quotes"]),
        ("[grid]\nmethod = ['fedavg']", ["method cannot stand in a sweep's file", "`methods`"]),
        ("[grid]\nbatch-size = 8", ["batch-size = 8 is int", "list"]),
        ("[grid]\nbatch-size = []", ["batch-size = [] is empty"]),
        ("[grid]\nbatch-size = [8, 0]", ["batch-size = 0 is out of range"]),
        ("[grid]\nbatch-size = [8, [9]]", ["batch-size holds [9], which is list"]),
        ("[grid]\ndata.alhpa = [1.0]", ["unknown setting 'data.alhpa'", "did you mean data.alpha"]),
        ("[grid]\nfedprox.mu = [1.0]", ["fedprox.mu in the grid is not used by any of fedavg"]),
    ],
)
def test_a_file_that_cannot_be_is_refused_in_one_line(text: str, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    head = "" if text.startswith("method") else "methods = ['fedavg']\n"
    path = file(head + text)
    with pytest.raises(SettingError) as caught:
        run_sweep(path, workers=1)
    line = str(caught.value)
    assert all(word in line for word in words) and "\n" not in line
    assert [p.name for p in Path().iterdir()] == ["grid.toml"] and capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("text", "options", "words"),
    [
        ("seeds = [1]", {}, "names no methods"),
        ("methods = ['fedavg']", {"method": "fedprox"}, "has no runs of fedprox; its methods are fedavg"),
        ("methods = ['fedavg']\n[grid]\nbatch-size = [8]", {"overrides": ["batch-size=4"]}, "stands in the grid"),
        ("methods = ['fedavg']", {"overrides": ["data.name='/no/such'"]}, "/no/such"),
        ("methods = ['fedavg']", {"clients": 5000}, "5000 clients"),
    ],
)
def test_what_does_not_go_with_the_file_is_refused(text: str, options: dict[str, Any], words: str) -> None:
    path = file(text)
    with pytest.raises(SettingError, match=words):
        run_sweep(path, workers=1, **options)
    assert [p.name for p in Path().iterdir()] == ["grid.toml"]


def test_a_missing_file_is_refused() -> None:
    with pytest.raises(SettingError, match=r"none\.toml cannot be read: No such file"):
        run_sweep(Path("none.toml"))


def test_a_folder_with_runs_of_other_settings_is_refused_before_any_run() -> None:
    path = file("methods = ['fedavg', 'fedprox']\nclients = 2\n[settings]\nbatch-size = 16")
    write(Path("out/fedprox-seed-0"), results([0.5], method="fedprox", batch_size=8) | {"complete": False})
    with pytest.raises(SettingError, match=r"fedprox-seed-0 holds a run with batch-size = 8, and the sweep wants 16; .*--fresh"):
        run_sweep(path, Path("out"), workers=1)
    with pytest.raises(SettingError, match="holds a run with 2 clients, and the sweep wants 3"):
        run_sweep(path, Path("out"), workers=1, clients=3, overrides=["batch-size=8"])
    assert [p.name for p in Path("out").iterdir()] == ["fedprox-seed-0"]


# Real runs


@pytest.mark.long
def test_a_sweep_stopped_in_the_middle_goes_on_to_the_same_numbers(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Seed 0 is complete and left alone, seed 1 is resumed after its first round, and the table is over both."""
    path = file(SMALL)
    keep = RunFolder.keep

    def stop(folder: RunFolder, checkpoint: Any) -> None:
        keep(folder, checkpoint)
        if folder.path.name.endswith("seed-1") and checkpoint.done == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "keep", stop)
        with pytest.raises(Interrupted, match="the same command goes on"):
            run_sweep(path, method="fedavg", workers=1)
    folder = Path("runs/sweep-grid")
    first, second = folder / "fedavg-seed-0", folder / "fedavg-seed-1"
    assert read_run(first).complete and not read_run(second).complete and not (folder / "sweep.csv").exists()
    untouched = {p: p.stat().st_mtime_ns for p in first.rglob("*")}
    before = (second / "ledger.jsonl").read_text()
    capsys.readouterr()

    assert run_sweep(path, method="fedavg", workers=1) == folder
    said = capsys.readouterr()
    assert {p: p.stat().st_mtime_ns for p in first.rglob("*")} == untouched
    assert (second / "ledger.jsonl").read_text().startswith(before) and before
    assert "sweep: 1 of 2 runs are complete already\n" in said.err and "sweep: run 2 of 2: fedavg, seed 1\n" in said.err
    unbroken = launch.run_method(
        launch.Request("fedavg", out=Path("whole"), seed=1, rounds=2, clients=2, workers=1, run_config=("data.max-examples=8",))
    )
    from safetensors.numpy import load_file

    assert same(load_file(second / "model.safetensors"), load_file(unbroken / "model.safetensors"))
    check_table(folder, said.out)


def check_table(folder: Path, printed: str) -> None:
    """The printed table, `sweep.csv` and the page agree with the runs' own results."""
    runs = [read_run(folder / f"fedavg-seed-{seed}") for seed in (0, 1)]
    accuracies = [run.accuracy for run in runs if run.accuracy is not None]
    mean, deviation = statistics.fmean(accuracies), statistics.stdev(accuracies)
    (row,) = table(folder)
    assert (row["method"], row["runs"]) == ("fedavg", "2")
    assert float(row["global accuracy"]) == mean and float(row["global accuracy, deviation"]) == deviation
    assert float(row["bytes up"]) == runs[0].up == runs[1].up and row["replies left out"] == "0.0"
    head, cells, *_ = ([c.strip() for c in line.split("  ") if c.strip()] for line in printed.splitlines())
    assert head[:4] == ["run", "seeds", "global accuracy", "global, worst tenth"] and "epsilon" not in head
    assert cells[:3] == ["fedavg", "2", f"{100 * mean:.1f} % ± {100 * deviation:.1f} %"]
    page = Page(folder / "report.html")
    assert page.tables["What was reached"][1][1:3] == ["2 runs", f"{100 * mean:.1f} % ± {100 * deviation:.1f} %"]


def test_a_run_that_fails_is_noted_and_the_sweep_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    """Where a run's folder would be lies a file; once that is gone, the same command runs what is missing."""
    path, folder = file("methods = ['fedavg', 'fedprox']\n" + SMALL.replace("0, 1", "4")), Path("out")
    folder.mkdir()
    (folder / "fedavg-seed-4").write_text("in the way")
    with pytest.raises(RunError, match="^1 of 2 runs failed; the same command tries them again$"):
        run_sweep(path, folder, workers=1, overrides=["num-server-rounds=1"])
    said = capsys.readouterr()
    assert said.err.splitlines()[-1].startswith("failed: fedavg-seed-4: --out ")
    assert [line.split()[:2] for line in said.out.splitlines()[1:3]] == [["fedavg", "0"], ["fedprox", "1"]]
    assert [row["runs"] for row in table(folder)] == ["0", "1"]
    (second,) = [line for line in said.err.splitlines() if line.startswith("sweep: run 2 of 2")]
    assert re.fullmatch(r"sweep: run 2 of 2: fedprox, seed 4 \(\S+ \w+ gone, about \S+ \w+ left\)", second)
    (folder / "fedavg-seed-4").unlink()
    run_sweep(path, folder, workers=1, overrides=["num-server-rounds=1"])
    said = capsys.readouterr()
    assert "1 of 2 runs are complete already" in said.err and "run 2 of 2: fedavg, seed 4" in said.err
    assert [row["runs"] for row in table(folder)] == ["1", "1"]


def test_a_complete_sweep_runs_nothing_and_fresh_runs_all(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The record of an older version, which lacks newer settings, counts where those are at their default."""
    path, asked = file("methods = ['fedavg']\nclients = 2"), list[launch.Request]()
    document = results([0.5], seed=0) | {"complete": True}
    document["settings"] = {key: v for key, v in settings(method="fedavg", seed=0).items() if not key.startswith("robust.")}
    place = write(Path("out/fedavg-seed-0"), document)
    monkeypatch.setattr("fedwarm.launch.several.run_method", asked.append)
    run_sweep(path, Path("out"), workers=1)
    assert asked == [] and "1 of 1 runs are complete already" in capsys.readouterr().err
    run_sweep(path, Path("out"), workers=1, engine="ray", fresh=True)
    assert asked == [launch.Request("fedavg", "ray", place, 0, clients=2, workers=1, fresh=True)]


def test_a_run_without_a_checkpoint_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[launch.Request] = []
    write(Path("out/fedavg-seed-0"), results([0.5], seed=0) | {"complete": False})
    monkeypatch.setattr("fedwarm.launch.several.run_method", asked.append)
    run_sweep(file("methods = ['fedavg']\nclients = 2"), Path("out"), workers=1)
    assert [(r.fresh, r.resume) for r in asked] == [(True, False)]


def test_what_the_command_line_says_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[launch.Request] = []
    monkeypatch.setattr("fedwarm.launch.several.run_method", asked.append)
    path = file("methods = ['fedavg', 'fedprox']\nclients = 3\n[settings]\nbatch-size = 8\nlocal-epochs = 1")
    run_sweep(path, method="fedprox", clients=2, overrides=["batch-size=4", "data.name='digits'"])
    (request,) = asked
    assert (request.method, request.clients, request.seed, request.out) == (
        "fedprox",
        2,
        0,
        Path("runs/sweep-grid/fedprox-seed-0"),
    )
    assert parse(parse_overrides(request.run_config)).run.batch_size == 4
    assert sorted(request.run_config) == ["batch-size=4", "data.name='digits'", "local-epochs=1"]
    assert not (request.fresh or request.resume)


def test_a_terminal_is_shown_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr("fedwarm.launch.several.run_method", lambda request: monkeypatch.setattr(sys, "stderr", terminal))
    run_sweep(file("methods = ['fedavg']\nclients = 2\nseeds = [0, 1]"), workers=1)
    (line,) = [line for line in terminal.getvalue().splitlines() if line.strip()]
    assert "━" in line and "run 2 of 2: fedavg, seed 1 (" in line


def test_debugging_shows_where_a_run_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(request: launch.Request) -> None:
        raise ZeroDivisionError("x\ny")

    monkeypatch.setattr("fedwarm.launch.several.run_method", fail)
    path = file("methods = ['fedavg']\nclients = 2")
    with pytest.raises(RunError, match="1 of 1 runs failed"):
        run_sweep(path, workers=1)
    monkeypatch.setitem(os.environ, "FEDWARM_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        run_sweep(path, workers=1)


def test_a_damaged_record_is_named() -> None:
    """A results file that is damaged is named, and nothing runs."""
    place = Path("out/fedavg-seed-0")
    place.mkdir(parents=True)
    (place / "results.json").write_text(json.dumps(results([0.5]))[:-5])
    with pytest.raises(SettingError, match=r"fedavg-seed-0/results\.json cannot be read as JSON"):
        run_sweep(file("methods = ['fedavg']"), Path("out"), workers=1)
