"""A federation of real processes whose sites bring their own pictures: cat and dog here, dog and fox there.

On the same nodes: somebody's own data and model, two files of a few lines, whose model is that of the other engines.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from fedwarm.federation.bringup import down, up
from fedwarm.federation.preparing import Wanted
from fedwarm.federation.settings import Federation
from fedwarm.launch.run import Request, run_method
from tests.sets import write_site

pytestmark = [pytest.mark.processes, pytest.mark.long]
WORDS = ("cat", "dog", "fox")
SETTINGS = "data.name='own' data.image-size=8 num-server-rounds=1 local-epochs=1 model.name='logistic'"


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    """Two nodes without keys, named by the folders of their data."""
    place = tmp_path_factory.mktemp("own")
    write_site(place / "data" / "shelter", "classes", [(w, i) for w in ("cat", "dog") for i in range(8)], WORDS)
    write_site(place / "data" / "woods", "csv", [(w, i) for w in ("fox", "dog") for i in range(10, 18)], WORDS)
    said, told = str(place / "pair"), []  # type: str, list[str]
    try:
        yield up(said, Wanted(insecure=True, data=str(place / "data")), told.append)
    finally:
        down(said, told.append)


def test_sites_with_other_classes_train_one_model(
    federation: Federation, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = f"{SETTINGS} data.partition='dirichlet'"
    request = Request("fedavg", "deployment", tmp_path / "run", 3, run_config=(settings,), federation=str(federation.folder))
    folder = run_method(request)
    assert "fedwarm: data.partition has no effect in this run" in capsys.readouterr().err
    results = json.loads((folder / "results.json").read_text())
    assert results["complete"] and results["engine"] == "deployment" and not results["notes"]
    partition = results["partition"]
    assert (partition["classes"], partition["sites"]) == (list(WORDS), ["shelter", "woods"])
    assert partition["held"] == [["cat", "dog"], ["dog", "fox"]]
    assert [[bool(n) for n in row] for row in partition["counts"]] == [[True, True, False], [False, True, True]]
    assert load_file(folder / "model.safetensors")["1.weight"].shape == (3, 3 * 8 * 8)
    assert all(share is not None for share in results["rounds"][-1]["global"]["per_client"])
    page = (folder / "report.html").read_text()
    assert "woods (1)" in page and "fox" in page


DATA = """import numpy as np


def load():
    inputs = np.random.default_rng(7).normal(size=(40, 5))
    return inputs, inputs @ np.array([1, -2, 3, 0, 1])
"""
NETS = """from torch import nn


def make(outputs, shape):
    return nn.Sequential(nn.Linear(shape[0], 8), nn.Tanh(), nn.Linear(8, outputs))
"""


def test_two_files_of_ones_own_give_one_model_on_every_engine(
    federation: Federation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mydata.py").write_text(DATA)
    (tmp_path / "mynets.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    settings = ("model.name='mynets:make' data.name='mydata:load' task='regression' num-server-rounds=1 local-epochs=1",)
    found = {}
    for engine, where in (("local", {}), ("ray", {}), ("deployment", {"federation": str(federation.folder)})):
        clients = {} if where else {"clients": 2}
        folder = run_method(Request("fedavg", engine, tmp_path / engine, 3, run_config=settings, **clients, **where))
        found[engine] = (folder / "model.safetensors").read_bytes()
    assert found["local"] == found["ray"] == found["deployment"]
