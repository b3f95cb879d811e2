"""`fedwarm augment`: the plan, the work, the audit and the page, each of what the others say."""

from __future__ import annotations

import json
from pathlib import Path

import datasets
import pytest
from PIL import Image

from fedwarm.augmentations.gen_fedsd.plan import outlook
from fedwarm.catalogue import parse
from fedwarm.cli.augment import UNDRAWN, Work, augment
from fedwarm.core.compute import torch_threads
from fedwarm.launch.outlook import outlook as before_a_run
from fedwarm.launch.preflight import check_run
from fedwarm.launch.run import Request, run_method
from fedwarm.settings.fields import SettingError, Value
from fedwarm.settings.kinds import PROVIDERS
from fedwarm.settings.text import parse_overrides

SMALL = (
    "data.max-examples=20 data.image-size=16 data.partition='dirichlet' data.alpha=0.3 model.name='logistic' gen-fedsd.steps=1 "
    "gen-fedsd.budget-images=6"
)


def kept_of(provider: str) -> str:
    """What is said of where a provider's images lie."""
    return str(PROVIDERS.load(provider).kept)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def run(*more: str, **asked: object) -> str:
    with torch_threads(1):
        return augment(Work(clients=3, run_config=(SMALL, *more), **asked))  # type: ignore[arg-type]


@pytest.mark.parametrize("rule", ["client_max", pytest.param("global", marks=pytest.mark.long)])
def test_what_was_drawn_is_on_the_page(rule: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.html"
    assert run(f"gen-fedsd.rule='{rule}'", page=page) == f"page   {page}" and UNDRAWN[1:] in page.read_text()
    plan = capsys.readouterr().out
    config, clients = check_run({"method": "gen_fedsd", **dict(parse_overrides([SMALL, f"gen-fedsd.rule='{rule}'"]))}, 3)
    (ahead,) = outlook(config, clients)
    assert " s of one machine" in ahead, "the plan measured the speed"
    assert run(f"gen-fedsd.rule='{rule}'", fill=True, audit=True, page=page) == f"page   {page}"
    told = capsys.readouterr()
    assert UNDRAWN[1:] not in page.read_text() and page.read_text().count("data:image/png") > 0
    drawn = int(told.out.split(" images drawn")[0].rsplit("\n", 1)[-1].replace(",", ""))
    assert f"({drawn * 768 / 1e6:.1f} MB), {drawn} of them to be drawn" in ahead and f"3 clients get {drawn} images" in ahead
    assert "0 of them to be drawn;" in next(outlook(config, clients))
    assert 0 < drawn <= 18 and f"{drawn}" in plan.splitlines()[4]
    assert "trained on synthetic images alone" in told.out
    assert "client 0: synthesis" in told.err and "server: clients 3/3" in told.err
    assert run(f"gen-fedsd.rule='{rule}'", fill=True).startswith("images lie in ")
    assert f"0 images drawn, {drawn} found" in capsys.readouterr().out


@pytest.mark.parametrize("provider", ["transforms", "file"])
def test_what_nobody_keeps_is_said_to_be_kept_nowhere(provider: str, tmp_path: Path) -> None:
    given = f"gen-fedsd.provider='{provider}' gen-fedsd.file='public' data.public-share=0.3"
    page = tmp_path / "page.html"
    assert run(given, fill=True) == kept_of(provider)
    run(given, fill=True, page=page)
    shown = page.read_text().count("data:image/png") > 0
    assert shown == (provider == "file") and (kept_of(provider)[1:20] in page.read_text()) == (not shown)


def test_nothing_is_told_of_runs_that_draw_nothing() -> None:
    for settings in ({"method": "fedavg"}, {"method": "gen_fedsd", "gen-fedsd.provider": "transforms"}):
        with torch_threads(1):
            assert not list(before_a_run(*check_run(settings, 3)))


def test_a_model_of_the_hub_is_left_to_the_clients() -> None:
    """This process would load it before workers are forked."""
    settings: dict[str, Value] = {"method": "gen_fedsd", "diffusion.foundation": "owner/model"}
    assert not list(outlook(parse(settings), 3))


def test_a_client_that_is_not_there() -> None:
    with pytest.raises(SettingError, match="--client 3 is out of range; 3 clients have the numbers 0 to 2"):
        run(client=3)


@pytest.fixture
def cats(tmp_path: Path) -> str:
    """A folder of pictures of ones and of cats."""
    labels = datasets.ClassLabel(names=["one", "cat"])
    told = datasets.Features({"image": datasets.Image(), "label": labels})
    pictures = [Image.linear_gradient("L").rotate(15 * i).resize((8, 8)).convert("RGB") for i in range(24)]
    (tmp_path / "cats").mkdir()
    rows = datasets.Dataset.from_dict({"image": pictures, "label": [i % 3 // 2 for i in range(24)]}, features=told)
    rows.to_parquet(tmp_path / "cats" / "train.parquet")
    return str(tmp_path / "cats")


def test_classes_that_the_foundation_never_saw_are_told_before_the_run_and_in_its_record(
    cats: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quick = f"data.name='{cats}' data.image-size=8 data.partition='iid' model.name='logistic'"
    small = f"{quick} local-epochs=1 gen-fedsd.steps=1 gen-fedsd.budget-images=1 save-pictures=false"
    with torch_threads(1):
        run_method(Request("gen_fedsd", out=tmp_path / "run", rounds=1, clients=1, workers=1, run_config=(small,)))
    told = "diffusion.foundation = 'glyph' was not trained on 1 of 2 classes (cat): what it draws of them is noise"
    assert f"fedwarm: {told}" in capsys.readouterr().err
    assert [note[: len(told)] for note in json.loads((tmp_path / "run" / "results.json").read_text())["notes"]] == [told]
    with pytest.raises(SettingError, match="none of the classes one, cat: it would draw noise"), torch_threads(1):
        check_run({**dict(parse_overrides([small])), "method": "gen_fedsd", "gen-fedsd.phrases": "one=lynx"}, 1)


def test_a_client_s_number_is_no_less_than_all() -> None:
    from typer.testing import CliRunner

    from fedwarm.cli.app import app

    told = CliRunner().invoke(app, ["augment", "--client", "-4"])
    assert told.exit_code == 2 and "-4 is not in the range" in told.output
