"""One app, three engines: the same model from the local engine and from Ray, whoever answers first."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from pathlib import Path

import pytest
from flwr.app import Message
from flwr.serverapp import Grid
from safetensors.torch import save_file

from fedwarm.engines.ray import run_ray
from fedwarm.launch.run import Request, run_method
from fedwarm.models import Model, build_model
from fedwarm.rounds import arrivals
from tests.grids import Through, served
from tests.runs import run
from tests.series import series_app
from tests.small import METHODS, alike, text

SHORT = ("fedavg",)


@pytest.mark.processes
@pytest.mark.parametrize("train", ["all", "lora"])
@pytest.mark.parametrize("method", SHORT)
def test_workers_and_ray_give_the_same_model_bit_for_bit(method: str, train: str, tmp_path: Path) -> None:
    """What is not trained, of a file that the server alone reads, is sent once in all of them."""
    path = tmp_path / "w.safetensors"
    save_file(build_model(Model(), 10, 16, 7).state_dict(), path)
    given = {**METHODS[method], "model.train": train, "model.weights": str(path)}
    cases = {"one": ("local", 1), "two": ("local", 2), "ray": ("ray", 2)}
    folders = [
        run_method(Request(method, engine, tmp_path / name, 3, None, 2, workers, run_config=(text(given),)))
        for name, (engine, workers) in cases.items()
    ]
    assert alike(folders)
    assert len({json.loads((f / "results.json").read_text())["totals"]["bytes_down"] for f in folders}) == 1
    assert [json.loads((f / "results.json").read_text())["engine"] for f in folders] == ["local", "local", "ray"]


OTHERS = [method for method in METHODS if method not in SHORT]


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of each method on two actors of one Ray simulation."""
    place = tmp_path_factory.mktemp("simulated")
    runs = {method: {**METHODS[method], "method": method, "seed": 3} for method in OTHERS}
    run_ray(series_app(place / "app", runs), {}, clients=2, workers=2)
    return place


@pytest.mark.long
@pytest.mark.processes
@pytest.mark.parametrize("method", OTHERS)
def test_every_method_gives_the_same_model_bit_for_bit(method: str, simulated: Path, tmp_path: Path) -> None:
    """On one worker, on two, and on Ray."""
    given = text(METHODS[method])
    folders = [run_method(Request(method, "local", tmp_path / str(n), 3, None, 2, n, run_config=(given,))) for n in (1, 2)]
    assert alike([*folders, simulated / method])


class Late(Through):
    """A grid that only sends and pulls, and on which replies turn up when they like."""

    stream = None

    def __init__(self, grid: Grid) -> None:
        super().__init__(grid)
        self.draws = random.Random(7)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return self.grid.pull_messages(message_ids) if self.draws.random() < 0.3 else []


LATE = served(Late)


OFTEN = ("fedavg", "fedsparse", "scaffold")  # a mean, parts of models, and a state of the server's


@pytest.mark.parametrize("method", [pytest.param(each, marks=() if each in OFTEN else pytest.mark.long) for each in METHODS])
def test_the_order_of_arrival_does_not_matter(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"server-threads": 1, **METHODS[method]}
    whole = run(method, tmp_path / "whole", settings)
    monkeypatch.setattr(arrivals, "POLL_SECONDS", 0.0)
    late = [run(method, tmp_path / f"{n}", settings, workers=n, server=f"{__name__}:LATE").folder for n in (1, 2)]
    assert alike([whole.folder, *late])
