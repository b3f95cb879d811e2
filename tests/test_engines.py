"""One app, three engines: the same model from the local engine and from Ray, whoever answers first."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from pathlib import Path

import pytest
from flwr.app import Message
from flwr.serverapp import Grid

from fedwarm.launch.run import Request, run_method
from fedwarm.rounds import arrivals
from tests.grids import Through, served
from tests.runs import run
from tests.small import METHODS, alike, text

SHORT = ("fedavg", "warmfed")
RAY = [method if method in SHORT else pytest.param(method, marks=pytest.mark.long) for method in METHODS]


@pytest.mark.processes
@pytest.mark.parametrize("method", RAY)
def test_workers_and_ray_give_the_same_model_bit_for_bit(method: str, tmp_path: Path) -> None:
    """Ray has an actor for each client, or one, which takes half as long to start, for both."""
    cases = {"one": ("local", 1), "two": ("local", 2), "ray": ("ray", 2 if method in SHORT else 1)}
    folders = [
        run_method(Request(method, engine, tmp_path / name, 3, None, 2, workers, run_config=(text(METHODS[method]),)))
        for name, (engine, workers) in cases.items()
    ]
    assert alike(folders)
    assert [json.loads((f / "results.json").read_text())["engine"] for f in folders] == ["local", "local", "ray"]


class Late(Through):
    """A grid that only sends and pulls, and on which replies turn up when they like."""

    stream = None

    def __init__(self, grid: Grid) -> None:
        super().__init__(grid)
        self.draws = random.Random(7)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return self.grid.pull_messages(message_ids) if self.draws.random() < 0.3 else []


LATE = served(Late)


@pytest.mark.parametrize("method", METHODS)
def test_the_order_of_arrival_does_not_matter(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"server-threads": 1, **METHODS[method]}
    whole = run(method, tmp_path / "whole", settings)
    monkeypatch.setattr(arrivals, "POLL_SECONDS", 0.0)
    late = [run(method, tmp_path / f"{n}", settings, workers=n, server=f"{__name__}:LATE").folder for n in (1, 2)]
    assert alike([whole.folder, *late])
