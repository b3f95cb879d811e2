"""Which card who computes on: workers and clients in turn, everything else on the first."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest
import torch

from fedwarm.core import placement
from fedwarm.engines.local.run import run_local
from fedwarm.flower.app import FlowerApp
from fedwarm.flower.writing import SERVER
from fedwarm.models import device_of
from fedwarm.settings.fields import SettingError
from tests import cards
from tests.runs import SMALL_WARMFED, run


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


def of_worker(number: int) -> str:
    """The device of a worker, in a thread of its own."""
    found: list[str] = []

    def work() -> None:
        placement.settle(number)
        found.append(str(device_of("auto")))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return found[0]


def test_workers_go_over_the_cards_and_the_server_is_on_the_first(two: None) -> None:
    assert [of_worker(number) for number in range(5)] == ["cuda:0", "cuda:1", "cuda:0", "cuda:1", "cuda:0"]
    assert str(device_of("cuda")) == "cuda:0"
    assert str(device_of("cpu")) == "cpu"


def test_one_card_is_the_current_one_and_none_is_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert of_worker(3) == "cuda"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert of_worker(3) == "cpu"
    with pytest.raises(SettingError, match="no CUDA device"):
        device_of("cuda")


@pytest.mark.processes
@pytest.mark.parametrize("method", ["fedavg", "warmfed"])
def test_a_run_is_spread_over_two_cards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    """Without a number of workers there is one a card; WarmFed's server draws on both, each client's images on one of them."""
    place = tmp_path / "cards"
    place.mkdir()
    monkeypatch.setenv(cards.PLACE, str(place))
    flat = {
        **SMALL_WARMFED, "method": method, "device": "cuda", "deterministic": False, "cohort": 0, "num-server-rounds": 1,
        "local-epochs": 1, "data.partition": "iid", "data.max-examples": 4, "diffusion.precision": "fp32",
        "out": str(tmp_path / "run"), "client-folder": str(tmp_path / "clients"),
    }  # fmt: skip
    with placement.standing_in(cards.TWO):
        run_local(FlowerApp(SERVER, "tests.cards:app", flat, None), {}, clients=3)
    found = cards.asked(place)
    workers = {who: where for who, where in found.items() if who != "server"}
    assert workers == {"worker-0": {"cuda:0"}, "worker-1": {"cuda:1"}}
    assert found.get("server", {"cuda:0"}) == {"cuda:0"}
    assert json.loads((tmp_path / "run" / "results.json").read_text())["device"]["name"] == "stand-in 0"
    drawn = {path.name for path in place.iterdir() if path.name.startswith(f"{os.getpid()}-")}
    threads = {f"{os.getpid()}-worker-0", f"{os.getpid()}-worker-1", f"{os.getpid()}-server"}
    assert drawn == (threads if method == "warmfed" else set())
    if method == "warmfed":
        alone = run("warmfed", tmp_path / "alone", {**SMALL_WARMFED, "data.partition": "iid", "data.max-examples": 4}, clients=3)
        assert (tmp_path / "run" / "pool" / "pool-0.safetensors").read_bytes() == (
            alone.folder / "pool" / "pool-0.safetensors"
        ).read_bytes()
