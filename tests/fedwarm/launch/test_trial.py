"""A trial of training on a site's data: steps of the model that the settings name, up to a limit or until they are alike."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from fedwarm.catalogue import parse
from fedwarm.cli.app import main
from fedwarm.data.settings import Data
from fedwarm.data.shards import load_shard
from fedwarm.launch import trial
from fedwarm.node.finding import FAULT, OK, UNSEEN
from fedwarm.settings.config import Config
from fedwarm.settings.fields import Value
from tests.sets import write_site

STEP_SECONDS = 0.02


class Slow(nn.Module):
    """Takes its time, or fails."""

    broken = False

    def __init__(self, classes: int, image_size: int) -> None:
        super().__init__()
        self.head = nn.Linear(3 * image_size**2, classes)

    def forward(self, x: Tensor) -> Tensor:
        if self.broken:
            raise RuntimeError("CUDA out of memory\nmore of it")
        time.sleep(STEP_SECONDS)
        return self.head(x.flatten(1))  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty pictures of two classes, of which fifteen are trained on."""
    place = tmp_path_factory.mktemp("site") / "pictures"
    write_site(place, "classes", [(word, i) for word in ("cat", "dog") for i in range(10)], ("cat", "dog"))
    return place


def settled(site: Path, **more: Value) -> tuple[Config, Data]:
    flat = {"method": "fedavg", "data.image-size": 8, "batch-size": 4, "model.name": f"{__name__}:Slow", **more}
    config = parse(flat)
    return config, config.of(Data).at(str(site))


def test_steps_are_timed_up_to_the_limit(site: Path) -> None:
    config, data = settled(site)
    begun = time.monotonic()
    found = trial.tried(config, load_shard(data, 0, 0, 1), 0.3)
    lasted = time.monotonic() - begun
    assert 1 <= found.steps <= 0.3 / STEP_SECONDS and STEP_SECONDS <= found.step_seconds <= lasted / found.steps
    assert found.batch == 4 and 3 / found.step_seconds <= found.examples_per_second <= 4 / found.step_seconds
    assert found.device.type == "cpu" and found.card_bytes == 0 and found.memory_bytes > 50e6


def test_steps_that_are_alike_end_it_early(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = trial.Clock(20.0, torch.device("cpu"))
    monkeypatch.setattr(trial, "LEAST_SECONDS", 1.0)
    for seconds, stable in (([0.1] * 10, False), ([0.01] * 30, False), ([0.1] * 20, True), ([0.2] * 10 + [0.1] * 10, False)):
        clock.seconds = seconds
        assert clock.stable is stable, seconds
    monkeypatch.setattr(trial, "LEAST_SECONDS", 0.1)
    monkeypatch.setattr(trial, "ALIKE", 10.0)
    config, data = settled(site)
    assert trial.tried(config, load_shard(data, 0, 0, 1), 60.0).steps == trial.STEPS


def test_what_cannot_be_tried_is_said(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, data = settled(site)
    (finding,) = trial.look_at_training(config, data, 0.0)
    assert (finding.level, finding.text) == (UNSEEN, "not looked at, as --seconds is 0")
    (finding,) = trial.look_at_training(*settled(site, **{"model.name": "gru"}), 0.1)
    assert finding.level == UNSEEN and "gru cannot be trained on these data" in finding.text
    monkeypatch.setattr(Slow, "broken", True)
    (finding,) = trial.look_at_training(config, data, 0.1)
    assert finding.level == FAULT and "failed (CUDA out of memory); see memory" in finding.text


def test_the_command_trains_on_data_that_are_good(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def lines(*words: str) -> list[str]:
        monkeypatch.setattr(sys, "argv", ["fedwarm", "node", "check", "--seconds", "0.2", *words])
        with pytest.raises(SystemExit):
            main()
        return [line for line in capsys.readouterr().out.splitlines() if " training: " in line or line == "ready"]

    told, ready = lines("--data", str(site), "-c", "method='fedavg' model.name='logistic' data.image-size=8 batch-size=4")
    assert told.startswith(f"{OK:<7}  training: logistic on the CPU, no CUDA GPU: ") and ready == "ready"
    assert " s a step of 4 pictures, " in told and told.endswith(" GB of memory at most")
    assert lines("--data", str(tmp_path / "none")) == [f"{UNSEEN:<7}  training: not looked at, as the data cannot be used"]
    assert lines() == [f"{UNSEEN:<7}  training: not looked at, as --data is not given", "ready"]
