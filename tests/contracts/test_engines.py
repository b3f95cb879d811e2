"""What every engine keeps: the same settings give the same model on each of them, and anybody can add one."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from fedwarm.engines import Asked, Engine
from fedwarm.launch.request import Request, engine_of
from fedwarm.launch.run import chosen, run_app, run_method
from fedwarm.settings.fields import SettingError
from fedwarm.settings.kinds import ENGINES
from fedwarm.settings.registry import summary
from tests.outsiders import installed

SMALL = "num-server-rounds=2 local-epochs=1 data.max-examples=40 data.image-size=8 model.name='logistic'"
OUTSIDER = """
from fedwarm.engines import Engine
from fedwarm.engines.local import Local

class Patient(Local):
    \"\"\"The local engine, which says what it does.\"\"\"

    takes = ("--keep-going",)

    def run(self, settings, asked):
        print("patiently", asked.clients, asked.again)
        super().run(settings, asked)

PATIENT = Patient()
"""
SLOW = [pytest.mark.processes, pytest.mark.long]
SIMULATED = [
    pytest.param(name, marks=SLOW if ENGINES.load(name).needs else []) for name in ENGINES if not ENGINES.load(name).real
]


@pytest.mark.parametrize("name", ENGINES.names())
def test_an_engine_says_what_it_is(name: str) -> None:
    engine: Engine = ENGINES.load(name)
    assert isinstance(engine, Engine) and summary(engine) and all(option.startswith("--") for option in engine.takes)
    assert chosen(name, engine, Asked()) == ("" if name == ENGINES.first else f" --engine {name}")
    assert engine.real or (engine.clients(Asked(3)) == 3 and engine.here(Asked()))


def model(name: str, folder: Path, workers: int = 1, settings: str = SMALL) -> str:
    """The digest of the final model of two rounds on an engine."""
    run = run_method(Request("fedavg", name, folder, 3, clients=2, workers=workers, run_config=(settings,)))
    assert json.loads((run / "results.json").read_text())["engine"] == name
    return hashlib.sha256((run / "model.safetensors").read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> str:
    return model(ENGINES.first, tmp_path_factory.mktemp("usual") / "run")


@pytest.mark.parametrize("name", SIMULATED)
def test_engines_without_nodes_give_the_same_model(name: str, usual: str, tmp_path: Path) -> None:
    assert model(name, tmp_path / "run", workers=2) == usual


@pytest.mark.parametrize("name", SIMULATED)
def test_a_text_gives_the_same_model_too(name: str, tmp_path: Path) -> None:
    settings = "num-server-rounds=1 local-epochs=1 data.name='styles' data.max-examples=20 model.name='gru' gru.width=8"
    assert model(name, tmp_path / "run", 2, settings) == model(ENGINES.first, tmp_path / "usual", 1, settings)


def test_anybody_s_engine_is_chosen_by_name_and_by_place(usual: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with installed(tmp_path / "site", {"fedwarm.engines": {"patient": "outsider:PATIENT"}}, OUTSIDER):
        assert model("patient", tmp_path / "one") == model("outsider:PATIENT", tmp_path / "two") == usual
        assert engine_of("patient", Asked(keep_going=True)).takes == ("--keep-going",)
    out = capsys.readouterr().out
    assert f"patiently 2 fedwarm run --resume --out {tmp_path / 'one'} --engine patient\n" in out


def test_what_an_engine_does_not_take_is_refused_with_those_that_do(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="^--keep-going works only with --engine deployment; add that, or leave"):
        engine_of("local", Asked(keep_going=True))
    with pytest.raises(SettingError, match="'rey' is not a known engine .did you mean ray"):
        engine_of("rey", Asked())
    with pytest.raises(SettingError, match="is not a Flower app"):
        run_app(tmp_path, [], "local", Asked())
