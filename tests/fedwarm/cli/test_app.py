"""The command line: bad input is one line and exit code 2, and nothing is written."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from fedwarm.core.compute import torch_threads
from fedwarm.core.failures import RunError
from fedwarm.core.store import Store, cache_home
from fedwarm.launch import run as launch
from fedwarm.settings.fields import SettingError
from fedwarm.settings.kinds import METHODS
from tests.report_page import results, write
from tests.shell import call

Refused = Callable[..., str]


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """An empty working directory; what the command line changes in the process is put back."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    for name in ("HF_HUB_DISABLE_TELEMETRY", "FEDWARM_ENGINE"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    with torch_threads(torch.get_num_threads()):
        yield work


@pytest.fixture
def refused(
    shell: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> Refused:
    """Runs a command that must be refused before any work begins, checks how, and gives the line."""

    def run(*arguments: object) -> str:
        before = {p: p.read_bytes() if p.is_file() else None for p in shell.parent.rglob("*")}
        assert call(monkeypatch, *[str(a) for a in arguments]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        (line,) = captured.err.splitlines()
        assert line.startswith("fedwarm: ")
        assert caplog.messages == []
        assert {p: p.read_bytes() if p.is_file() else None for p in shell.parent.rglob("*")} == before
        return line.removeprefix("fedwarm: ")

    return run


@pytest.mark.parametrize("command", ["run", "settings"])
def test_unknown_method(refused: Refused, command: str) -> None:
    line = refused(command, "fedporx")
    assert "'fedporx'" in line and "did you mean fedprox" in line


def test_no_method(refused: Refused) -> None:
    assert "fedwarm methods" in refused("run")


def test_method_and_app(refused: Refused, shell: Path) -> None:
    assert "not both" in refused("run", "fedavg", "--app", shell)


@pytest.mark.parametrize(("pair", "near"), [("sede=1", "seed"), ("data.alhpa=1.0", "data.alpha"), ("warmfed.rule=1", "warmfed.")])
def test_unknown_setting(refused: Refused, pair: str, near: str) -> None:
    line = refused("run", "fedavg", "-c", pair)
    assert f"unknown setting {pair.split('=')[0]!r}" in line and near in line.split("did you mean")[1]


@pytest.mark.parametrize(
    ("pairs", "words"),
    [
        ("seed='x'", ["seed = 'x' is str", "a whole number"]),
        ("seed=1.5", ["seed = 1.5 is float", "a whole number"]),
        ("batch-size=true", ["batch-size = True is bool", "a whole number"]),
        ("learning-rate='fast'", ["learning-rate = 'fast' is str", "a number"]),
        ("save-pictures=1", ["save-pictures = 1 is int", "true or false"]),
        ("batch-size=0", ["batch-size = 0 is out of range", "at least 1"]),
        ("data.partition='even'", ["data.partition = 'even'", "dirichlet"]),
        ("seed=x", ["seed=x", "quotes"]),
        ("seed", ["'seed'", "pairs"]),
        ("data.alpha=[1]", ["data.alpha = [1]"]),
        ("out='runs/x'", ["out = 'runs/x'", "absolute"]),
        ("none.toml", ["none.toml"]),
    ],
)
def test_values_that_cannot_be(refused: Refused, pairs: str, words: list[str]) -> None:
    line = refused("run", "fedavg", "-c", pairs)
    assert all(word in line for word in words), line


@pytest.mark.parametrize(
    ("option", "words"),
    [
        (("--seed", "-1"), ["seed = -1", "0 to"]),
        (("--rounds", "0"), ["num-server-rounds = 0", "at least 1"]),
        (("--clients", "-3"), ["--clients -3", "at least 1"]),
        (("--engine", "rya"), ["--engine 'rya'", "local, deployment, ray"]),
    ],
)
def test_options_out_of_range(refused: Refused, option: tuple[str, str], words: list[str]) -> None:
    line = refused("run", "fedavg", *option)
    assert all(word in line for word in words), line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("run", "fedavg", "--seed", "x"), ["--seed", "x"]),
        (("run", "fedavg", "--sede", "1"), ["--sede"]),
        (("rnu", "fedavg"), ["rnu"]),
    ],
)
def test_what_the_parser_refuses_is_one_line_too(refused: Refused, arguments: tuple[str, ...], words: list[str]) -> None:
    line = refused(*arguments)
    assert all(word in line for word in words), line


def test_negative_workers(refused: Refused) -> None:
    assert "workers = -1" in refused("run", "fedavg", "--workers", -1)


# The run folder


def test_a_folder_that_holds_another_run(refused: Refused, shell: Path) -> None:
    (shell / "old").mkdir()
    (shell / "old" / "results.json").write_text("{}")
    line = refused("run", "fedavg", "--out", shell / "old")
    assert str(shell / "old") in line and "holds another run" in line and "--fresh" in line


@pytest.mark.parametrize("options", [(), ("--fresh",)])
def test_a_folder_that_holds_something_else(refused: Refused, shell: Path, options: tuple[str, ...]) -> None:
    (shell / "mine").mkdir()
    (shell / "mine" / "thesis.tex").write_text("years of work")
    assert str(shell / "mine") in refused("run", "fedavg", "--out", "mine", *options)


@pytest.mark.parametrize("options", [(), ("--fresh",)])
def test_a_file_in_the_folders_place(refused: Refused, shell: Path, options: tuple[str, ...]) -> None:
    (shell / "file").write_text("text")
    assert str(shell / "file") in refused("run", "fedavg", "--out", shell / "file", *options)


def test_a_folder_below_a_file(refused: Refused, shell: Path) -> None:
    (shell / "file").write_text("text")
    assert str(shell / "file") in refused("run", "fedavg", "--clients", 2, "--rounds", 1, "--out", shell / "file" / "run")


def test_a_bad_setting_is_told_before_a_run_is_cleared(refused: Refused, shell: Path) -> None:
    (shell / "old").mkdir()
    (shell / "old" / "results.json").write_text("{}")
    assert "seed" in refused("run", "fedavg", "--fresh", "--out", shell / "old", "-c", "seed=-1")
    assert "workers = -1" in refused("run", "fedavg", "--fresh", "--out", shell / "old", "--workers", -1)
    assert (shell / "old" / "results.json").is_file()


def test_what_is_said_twice_must_be_the_same(shell: Path, refused: Refused) -> None:
    said = "and the settings say"
    assert f"METHOD is 'fedavg', {said} method = 'fedprox'" in refused("run", "fedavg", "-c", "method='fedprox'")
    assert f"--seed is 1, {said} seed = 2" in refused("run", "fedavg", "--seed", 1, "-c", "seed=2")
    assert f"--rounds is 2, {said} num-server-rounds = 3" in refused("run", "fedavg", "--rounds", 2, "-c", "num-server-rounds=3")
    (shell / "whole.toml").write_text("method = 'fedprox'\nseed = -1\n")
    assert "seed = -1" in refused("run", "-c", shell / "whole.toml")  # which names the method
    assert "min-replies = 9 is more than the 3 clients of a round" in refused(
        "run", "fedavg", "--clients", 3, "-c", "min-replies=9"
    )


# Data, models, foundations


def test_more_clients_than_images(refused: Refused) -> None:
    line = refused("run", "fedavg", "--clients", 5000)
    assert "5000 clients" in line and "1797" in line


def test_a_missing_data_folder(refused: Refused, shell: Path) -> None:
    assert str(shell / "none") in refused("run", "fedavg", "-c", f"data.name='{shell / 'none'}'")


def test_a_data_set_without_labels(
    refused: Refused, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets
    import pyarrow as pa  # type: ignore[import-untyped]
    import pyarrow.parquet as pq  # type: ignore[import-untyped]

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    datasets.enable_progress_bars()
    folder = tmp_path / "data"
    folder.mkdir()
    pq.write_table(pa.table({"image": [b"png"] * 3, "weight": [0.5] * 3}), folder / "train.parquet")
    line = refused("run", "fedavg", "-c", f"data.name='{folder}'")
    assert "label" in line and "weight" in line and "data.label-column" in line


@pytest.mark.parametrize(
    ("index", "words"),
    [
        (None, ["model_index.json"]),
        ("{}", ["Stable Diffusion"]),
        (json.dumps({"_class_name": "DDPMPipeline", "unet": []}), ["Stable Diffusion"]),
        (json.dumps({"_class_name": "StableDiffusionPipeline"}), ["lacks unet"]),
        ("no json", ["Stable Diffusion"]),
        ("[]", ["Stable Diffusion"]),
    ],
    ids=["empty", "no class", "another class", "no unet", "no json", "a list"],
)
def test_a_foundation_that_is_no_pipeline(refused: Refused, shell: Path, index: str | None, words: list[str]) -> None:
    folder = shell / "foundation"
    folder.mkdir()
    if index is not None:
        (folder / "model_index.json").write_text(index)
    line = refused("run", "warmfed", "-c", f"diffusion.foundation='{folder}'")
    assert "diffusion.foundation" in line and str(folder) in line
    assert all(word in line for word in words), line


@pytest.mark.parametrize("name", ["/no/such/folder", "./folder", "glyp", "a/b/c"])
def test_a_missing_foundation(refused: Refused, name: str) -> None:
    line = refused("run", "warmfed", "-c", f"diffusion.foundation='{name}'")
    assert f"diffusion.foundation = {name!r}" in line and "glyph" in line


def test_a_foundation_that_holds_no_weights(refused: Refused, shell: Path) -> None:
    """It calls itself a pipeline, but its parts are not there."""
    (shell / "foundation").mkdir()
    index = {"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"]}
    (shell / "foundation" / "model_index.json").write_text(json.dumps(index))
    small = ["--clients", "2", "--workers", "1", "--out"]
    assert "foundation" in refused("run", "warmfed", *small, "run", "-c", f"diffusion.foundation='{shell / 'foundation'}'")


def test_a_prompt_without_a_class(refused: Refused) -> None:
    assert "{class}" in refused("run", "warmfed", "-c", "warmfed.prompt='a photo'")


def test_a_missing_weights_file(refused: Refused) -> None:
    small = ["--clients", "2", "--workers", "1", "--rounds", "1", "--out", "run"]
    line = refused("run", "fedavg", *small, "-c", "model.weights='/no/such/file' data.max-examples=4")
    assert "model.weights = '/no/such/file'" in line


def test_a_graphics_card_that_is_not_there(refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    small = ["--clients", "2", "--workers", "1", "--rounds", "1", "--out", "run"]
    assert "device = 'cuda'" in refused("run", "fedavg", *small, "-c", "device='cuda' data.max-examples=4")


# Other commands


def test_an_app_without_pyproject(refused: Refused, shell: Path) -> None:
    (shell / "app").mkdir()
    for folder in (shell / "app", shell / "none"):
        line = refused("run", "--app", folder)
        assert str(folder) in line and "pyproject.toml" in line


def app_folder(shell: Path) -> Path:
    folder = shell / "app"
    folder.mkdir()
    (folder / "pyproject.toml").write_text(
        '[tool.flwr.app.components]\nserverapp = "s:app"\nclientapp = "c:app"\n[tool.flwr.app.config]\nrounds = 3\n'
    )
    return folder


def test_an_apps_unknown_setting(refused: Refused, shell: Path) -> None:
    line = refused("run", "--app", app_folder(shell), "-c", "rouns=1")
    assert "'rouns'" in line and "did you mean rounds" in line


@pytest.mark.parametrize(
    "option", [("--seed", "1"), ("--rounds", "2"), ("--out", "x"), ("--fresh",), ("--resume",), ("--sweep", "x.toml")]
)
def test_options_that_an_app_does_not_take(refused: Refused, shell: Path, option: tuple[str, ...]) -> None:
    assert option[0] in refused("run", "--app", app_folder(shell), *option)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["glyhp"], ["'glyhp'", "did you mean glyph", "--data"]),
        (["mine", "--public-share", 0.5], ["'mine'", "--data"]),
        (["glyph", "--from", "scratch"], ["--from needs --data"]),
        (["glyph", "--data", "digits"], ["'glyph' is the embedded foundation", "another name"]),
        (["mine", "--data", "digits", "--public-share", 0], ["--public-share 0 is out of range", "no public part"]),
        (["mine", "--data", "digits", "--public-share", 0.95], ["--public-share 0.95", "at most 0.9"]),
        (["mine", "--data", "digits", "--public-share", 0.001], ["no image of class 'zero'"]),
        (["mine", "--data", "digits", "--public-share", 0.3, "--public-where", "domain=a"], ["cannot be used together"]),
        (["mine", "--data", "digits", "--from", "scrach"], ["--from 'scrach'", "did you mean scratch"]),
        (["mine", "--data", "digits", "--jitter", 0.5], ["--jitter 0.5"]),
        (["mine", "--data", "/no/such/folder"], ["/no/such/folder", "there is no such folder"]),
        (["glyph", "-c", "data.bits=12"], ["--run-config needs --data"]),
        (["glyph", "--device", "gpu"], ["device = 'gpu'", "cuda"]),
        (
            ["mine", "--data", "digits", "-c", "data.bit=12"],
            ["data.bit is not a setting of a foundation", "did you mean data.bits"],
        ),
        (["mine", "--data", "digits", "-c", "data.bits=99"], ["data.bits = 99 is out of range"]),
    ],
)
def test_a_foundation_that_cannot_be_trained(refused: Refused, arguments: list[object], words: list[str]) -> None:
    line = refused("foundation", "train", *arguments)
    assert all(word in line for word in words), line


def test_a_foundation_over_something_else(refused: Refused, shell: Path) -> None:
    (shell / "foundations" / "mine").mkdir(parents=True)
    (shell / "foundations" / "mine" / "thesis.txt").write_text("all there is")
    assert "holds something other than a foundation" in refused("foundation", "train", "mine", "--data", "digits")


def test_a_report_about_nothing(refused: Refused, shell: Path) -> None:
    assert str(shell / "none") in refused("report", shell / "none")


def test_a_sweep_that_is_not_there(refused: Refused) -> None:
    assert "none.toml cannot be read" in refused("run", "--sweep", "none.toml")


def test_a_sweep_names_its_own_seeds(refused: Refused, shell: Path) -> None:
    (shell / "grid.toml").write_text("methods = ['fedavg']")
    assert "seeds stand in its file" in refused("run", "--sweep", "grid.toml", "--seed", 1)


def test_a_sweep_with_an_unknown_key(refused: Refused, shell: Path) -> None:
    (shell / "grid.toml").write_text("metods = ['fedavg']")
    line = refused("run", "--sweep", "grid.toml")
    assert "grid.toml: unknown key 'metods'" in line and "did you mean methods" in line


def test_a_resume_of_nothing(refused: Refused, shell: Path) -> None:
    assert "checkpoint" in refused("run", "--resume", "--out", shell / "none")
    assert "no method is given" in refused("run", "--resume")


def test_runs_below_no_folder(refused: Refused) -> None:
    assert "runs is not a folder" in refused("list")


def test_a_run_to_show_that_is_none(refused: Refused, shell: Path) -> None:
    assert str(shell) in refused("show", shell)


def test_a_state_that_nobody_keeps(refused: Refused, shell: Path) -> None:
    line = refused("state", "--folder", shell, "--remove", "00ff")
    assert "'00ff'" in line and str(shell) in line


def test_runs_and_states_are_looked_at(shell: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(shell))
    Store(cache_home(), "00ff", 1).save("personal", {"w": torch.zeros(3)}, 1)
    write(shell / "runs" / "one", results([0.5]))
    for arguments, words in [
        (("list",), ["one", "50.0 %"]),
        (("show", "runs/one"), ["fedavg, seed 0", "50.0 %"]),
        (("state",), ["00ff", "0 seconds ago"]),
        (("state", "--remove", "00ff"), ["removed 1 file"]),
        (("state",), ["clients keep nothing"]),
    ]:
        assert call(monkeypatch, *arguments) == 0
        out = capsys.readouterr().out
        assert all(word in out for word in words), out


def test_methods_are_listed(shell: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(monkeypatch, "methods") == 0
    first = [line.split()[0] for line in capsys.readouterr().out.splitlines() if not line.startswith("   ")]
    assert first == ["method", *METHODS]


def test_settings_are_printed_as_toml(shell: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from fedwarm.cli.settings import settings_toml

    assert call(monkeypatch, "settings", "--toml") == 0
    assert capsys.readouterr().out == settings_toml()


@pytest.mark.parametrize(
    ("error", "code"), [(SettingError("x = 1 is bad"), 2), (RunError("it broke"), 1), (KeyboardInterrupt(), 130)]
)
def test_how_a_run_ends_is_one_line_and_a_code(
    error: BaseException, code: int, shell: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def end(request: launch.Request) -> None:
        raise error

    monkeypatch.setattr(launch, "run_method", end)
    assert call(monkeypatch, "run", "fedavg") == code
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"fedwarm: {str(error) or 'stopped by the keyboard'}"


def test_what_was_asked_reaches_the_run(shell: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[launch.Request] = []
    monkeypatch.setattr(launch, "run_method", asked.append)
    options = ["--engine", "ray", "--out", "o", "--seed", "3", "--rounds", "4", "--clients", "5", "--workers", "6", "--fresh"]
    assert call(monkeypatch, "run", "fedprox", *options, "-c", "a=1 b=2", "-c", "c=3") == 0
    expected = launch.Request("fedprox", "ray", Path("o"), 3, 4, 5, 6, fresh=True, run_config=("a=1 b=2", "c=3"))
    assert asked == [expected]
    assert call(monkeypatch, "run", "--resume", "--out", "o") == 0
    assert asked[1:] == [launch.Request("", out=Path("o"), resume=True)]
    assert call(monkeypatch, "run", "fedavg", "--engine", "deployment", "--federation", "x", "--keep-going") == 0
    assert asked[2:] == [launch.Request("fedavg", "deployment", federation="x", keep_going=True)]


def test_a_federation_is_refused_where_there_is_none(
    shell: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(shell / "data"))
    nowhere = "there is no federation 'default'; `fedwarm federation up` starts one"
    only = "works only with --engine deployment"
    for words, said in (
        (("run", "fedavg", "--keep-going"), f"--keep-going {only}; add that, or leave --keep-going out"),
        (("run", "fedavg", "--federation", "x"), f"--federation {only}; add that, or leave --federation out"),
        (("run", "fedavg", "--engine", "deployment", "--rounds", "1"), nowhere),
        (("federation", "status"), nowhere),
        (("federation", "logs", "0"), nowhere),
        (("federation", "down"), nowhere),
    ):
        assert call(monkeypatch, *words) == 2
        assert capsys.readouterr().err == f"fedwarm: {said}\n"
    assert not list(shell.iterdir())


def test_what_was_asked_reaches_the_sweep(shell: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr("fedwarm.launch.sweep.run_sweep", lambda *given, **named: asked.extend([given, named]))
    options = ["--engine", "ray", "--out", "o", "--rounds", "4", "--clients", "5", "--workers", "6", "--fresh", "-c", "a=1"]
    options += ["--jobs", "7"]
    assert call(monkeypatch, "run", "fedprox", "--sweep", "grid.toml", *options) == 0
    named = {"method": "fedprox", "engine": "ray", "clients": 5, "workers": 6, "jobs": 7, "fresh": True}
    named |= {"federation": "default", "keep_going": False}
    assert asked == [(Path("grid.toml"), Path("o")), {**named, "overrides": ["a=1", "num-server-rounds=4"]}]


def test_a_small_run_leaves_its_record(shell: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--clients", "2", "--rounds", "1", "--workers", "1", "--out", "run", "-c"]
    options += ["data.max-examples=8 seed=5 metrics='f1'"]
    assert call(monkeypatch, "run", "FedAvg", *options) == 0
    results = json.loads((shell / "run" / "results.json").read_text())
    assert (results["method"], results["seed"], results["complete"]) == ("fedavg", 5, True)
    out = capsys.readouterr().out
    assert "global accuracy" in out and "\nf1 " in out and str(shell / "run") in out
    assert [p.name for p in shell.iterdir()] == ["run"]


@pytest.mark.long
def test_a_foundation_of_ones_own(shell: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = [
        "--vae-steps",
        "1",
        "--unet-steps",
        "1",
        "--images",
        "16",
        "--batch-size",
        "2",
        "--threads",
        "1",
        "--judged",
        "10",
        "--seed",
        "3",
    ]
    assert call(monkeypatch, "foundation", "train", "mine", "--data", "digits", "--public-share", "0.25", *sizes) == 0
    record = json.loads((shell / "foundations" / "mine" / "recipe.json").read_text())
    assert record["data"]["public_share"] == 0.25 and record["data"]["images"] == 450 and record["start"] == "glyph"
    assert (record["recipe"]["seed"], record["recipe"]["unet_steps"], record["recipe"]["batch_size"]) == (3, 1, 2)
    assert record["quality"]["judge_on_real"] > 0.5 and 0 <= record["quality"]["judge_on_drawn"] < 0.9
    captured = capsys.readouterr()
    assert "foundations/mine" in captured.out and "take more --unet-steps" in captured.err
    assert [p.name for p in shell.iterdir()] == ["foundations"]


def test_out_may_be_given_as_a_setting(shell: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ["--clients", "2", "--rounds", "1", "--workers", "1", "-c", f"data.max-examples=8 out='{shell / 'here'}'"]
    assert call(monkeypatch, "run", "fedavg", *options) == 0
    assert [p.name for p in shell.iterdir()] == ["here"]


def test_a_setting_that_changes_nothing_is_told(
    shell: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = "data.max-examples=8 local-epochs=1 fedprox.mu=0.1 dp-rec.sigma=2.0"
    assert call(monkeypatch, "run", "fedavg", "--rounds", "1", "--clients", "2", "--out", "one", "-c", small) == 0
    told = "fedwarm: dp-rec.sigma, fedprox.mu have no effect in this run"
    assert told in capsys.readouterr().err.splitlines()
    assert (shell / "one" / "results.json").is_file()


def test_a_setting_that_changes_nothing_is_told_wherever_it_was_given(
    shell: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = "data.max-examples=8 warmfed.synthetic-ratio=0.0 warmfed.teacher-epochs=1 warmfed.distill-epochs=1 fraction-train=0.5"
    monkeypatch.setenv("FEDWARM_RUN_CONFIG", "patience=3 target=0.5")
    options = ["--rounds", "3", "--clients", "2", "--workers", "1", "--out", "one", "-c", f"{small} target=0.7"]
    assert call(monkeypatch, "run", "warmfed", *options) == 0
    told = "fedwarm: fraction-train, --rounds, patience (in FEDWARM_RUN_CONFIG), target have no effect in this run"
    assert told in capsys.readouterr().err.splitlines()


def test_a_nodes_help_names_the_kit_first(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("fedwarm.node.supernode.main", lambda arguments: print("flower-supernode", arguments))
    call(monkeypatch, "node", "run", "--help")
    said = capsys.readouterr().out
    assert said.index("--kit FOLDER") < said.index("flower-supernode ['--help']")


@pytest.mark.parametrize("words", [["--help"], ["run", "--help"], ["federation", "--help"], ["node", "--help"], ["--version"]])
def test_help_loads_no_library_that_takes_seconds(words: list[str]) -> None:
    code = (
        f"import sys; sys.argv = ['fedwarm', *{words!r}]\n"
        "from fedwarm.cli.app import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print([name for name in ('torch', 'flwr', 'diffusers', 'sklearn', 'scipy') if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip().splitlines()[-1] == "[]"
