"""Tuning that is ended on its way and goes on to the same bits."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from fedwarm.core import progress
from fedwarm.core.progress import Tick, listening
from fedwarm.diffusion import midway, rows
from fedwarm.diffusion.foundation import Foundation, load_foundation
from fedwarm.diffusion.midway import NAME, forget
from fedwarm.diffusion.settings import Diffusion
from fedwarm.diffusion.tuners.hollowed.settings import Hollowed
from fedwarm.diffusion.tuners.hollowed.tune import tune_hollowed
from fedwarm.diffusion.tuning import Tuning, tune_adapter

STEPS = 6
State = dict[str, Tensor]
Tune = Callable[..., State]


@pytest.fixture(autouse=True)
def at_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(midway, "EVERY_SECONDS", 0.0)
    monkeypatch.setattr(rows, "EVERY_SECONDS", 0.0)
    monkeypatch.setattr(progress, "MIN_INTERVAL_SECONDS", 0.0)  # every step is heard, however fast they come


@pytest.fixture
def tune(foundation: Foundation, settings: Diffusion, pictures: tuple[Tensor, Tensor], sentences: list[str]) -> Tune:
    def run(folder: Path | None, on: Foundation = foundation, seed: int = 0, way: Any = tune_adapter, **changes: Any) -> State:
        own = dataclasses.replace(settings, lora_steps=STEPS, **changes)
        return way(Tuning(on, *pictures, sentences, own, seed, 0), folder=folder)

    return run


def hollowed(tuning: Tuning, folder: Path | None) -> State:
    return tune_hollowed(tuning, Hollowed(depth=1), folder)


def same(a: State, b: State) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def ended(after: int, tune: Callable[[], Any], stage: str = "adapter") -> list[int]:
    """Steps of a tuning that breaks off after one of them."""
    seen: list[int] = []

    def look(event: Tick) -> None:
        if event.stage == stage:
            seen.append(event.step)
            if event.step == after:
                raise KeyboardInterrupt

    if after:
        with listening(look), pytest.raises(KeyboardInterrupt):
            tune()
    else:
        with listening(look):
            tune()
    return seen


@pytest.mark.parametrize("schedule", ["cosine", "constant"])
def test_it_goes_on_to_the_same_bits(tune: Tune, tmp_path: Path, schedule: str) -> None:
    straight = tune(None, lora_schedule=schedule)
    assert ended(2, lambda: tune(tmp_path, lora_schedule=schedule)) == [1, 2]
    assert ended(4, lambda: tune(tmp_path, lora_schedule=schedule))[0] == 2  # of the step that broke off nothing was kept
    assert same(tune(tmp_path, lora_schedule=schedule), straight)
    assert ended(0, lambda: tune(tmp_path, lora_schedule=schedule)) == []  # all was kept
    assert (tmp_path / NAME).stat().st_mode & 0o777 == 0o600
    forget(tmp_path)
    assert ended(0, lambda: tune(tmp_path, lora_schedule=schedule))[0] == 1


@pytest.mark.long
def test_half_precision_goes_on_with_its_factor(tune: Tune, settings: Diffusion, tmp_path: Path) -> None:
    half = load_foundation(dataclasses.replace(settings, precision="fp16"), "cpu")
    straight = tune(None, half)
    ended(3, lambda: tune(tmp_path, half))
    assert same(tune(tmp_path, half), straight)


def test_a_net_without_its_core_goes_on(tune: Tune, tmp_path: Path) -> None:
    straight = tune(tmp_path / "other", way=hollowed)
    assert ended(3, lambda: tune(tmp_path, way=hollowed)) == [1, 2, 3]
    assert same(tune(tmp_path, way=hollowed), straight)


def test_the_cores_answers_go_on_where_they_ended(tune: Tune, tmp_path: Path) -> None:
    """Six batches of eight, each computed once, and the same bits; a process that is killed leaves a file of weights, too."""
    straight = tune(tmp_path / "other", way=hollowed)
    assert ended(24, lambda: tune(tmp_path, way=hollowed), "tuples") == [8, 16, 24]
    left = {path.name for path in (tmp_path / "hollowed-0").iterdir()}
    assert {"core.safetensors", "core.safetensors.rows"} <= left
    (tmp_path / "hollowed-0" / "weights.bin").write_bytes(b"of the process that was killed")
    assert ended(40, lambda: tune(tmp_path, way=hollowed), "tuples") == [32, 40]
    assert same(tune(tmp_path, way=hollowed), straight)
    assert not [*tmp_path.glob("hollowed-*")]


def test_answers_of_another_tuning_are_not_used(tune: Tune, tmp_path: Path) -> None:
    ended(24, lambda: tune(tmp_path, way=hollowed), "tuples")
    assert ended(0, lambda: tune(tmp_path, way=hollowed, seed=1), "tuples")[0] == 8


@pytest.mark.parametrize("changed", [{"seed": 1}, {"rank": 2}, {"lora_learning_rate": 1e-2}])
def test_another_tunings_state_is_not_used(tune: Tune, tmp_path: Path, changed: dict[str, Any]) -> None:
    ended(3, lambda: tune(tmp_path))
    assert ended(0, lambda: tune(tmp_path, **changed))[0] == 1


def test_a_damaged_file_is_no_state(tune: Tune, tmp_path: Path) -> None:
    ended(3, lambda: tune(tmp_path))
    (tmp_path / NAME).write_bytes((tmp_path / NAME).read_bytes()[:200])
    assert ended(0, lambda: tune(tmp_path))[0] == 1


def test_no_picture_is_in_the_file(tune: Tune, tmp_path: Path) -> None:
    ended(3, lambda: tune(tmp_path))
    with safe_open(tmp_path / NAME, "pt") as file:
        kinds = {name.partition(".")[0] for name in file.keys()}  # noqa: SIM118 (it is no mapping)
    assert kinds == {"parameter", "state", "draws"}


def test_it_is_kept_within_two_minutes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    clock = [0.0]
    monkeypatch.undo()
    monkeypatch.setattr(midway.time, "monotonic", lambda: clock[0])
    own = midway.Midway(tmp_path, "", torch.Generator(), torch.amp.GradScaler("cpu", enabled=False))
    assert not own.due()
    clock[0] = 119.0
    assert own.due()
