"""The membership benchmark: its measures on what is known, and what it finds in the adapters of real runs."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.benches import loaded
from tests.runs import SMALL_WARMFED, run


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    return loaded(monkeypatch, "membership")


def test_measures_of_known_scores(bench: Any) -> None:
    """Apart: all are told; the same: half, with ties as half; turned: none. Of a hundred others five are false alarms."""
    low, high = torch.arange(100.0), torch.arange(100.0) + 200
    assert [bench.area(*pair) for pair in ((high, low), (low, low), (low, high))] == [1.0, 0.5, 0.0]
    assert bench.area(torch.tensor([1.0, 3.0]), torch.tensor([1.0, 2.0])) == (0.5 + 0 + 1 + 1) / 4
    assert bench.caught(high, low) == 1.0 and bench.caught(low, low) == 0.05


@pytest.mark.long
def test_images_that_an_adapter_knows_by_heart_are_told_from_others(
    bench: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few images and 200 steps, so that they come back; and an adapter of a single step, which knows nothing."""
    small = {**SMALL_WARMFED, "data.max-examples": 24, "diffusion.lora-batch-size": 8}
    folders = {steps: tmp_path / f"steps-{steps}" for steps in (1, 200)}
    for steps, folder in folders.items():
        run("warmfed", folder, {**small, "diffusion.lora-steps": steps}, clients=1)
    found = {steps: bench.area(*bench.scores(folder, 0, draws=10)) for steps, folder in folders.items()}
    assert found[200] > 0.75 and found[200] > found[1] + 0.1, found
    monkeypatch.setattr(sys, "argv", ["membership.py", *map(str, folders.values()), "--draws", "10"])
    bench.main()
    *_, client, mean, all_runs = capsys.readouterr().out.splitlines()
    assert re.fullmatch(rf"\| steps-200 \| 0 \| \d+ \| {found[200]:.3f} \| [\d.]+ % \|", client), client
    assert re.fullmatch(rf"\| steps-200 \| mean \| \| {found[200]:.3f} \| [\d.]+ % \|", mean), mean
    assert all_runs.startswith(f"| all 2 runs | mean [95 % interval] | | {(found[1] + found[200]) / 2:.3f} ["), all_runs


def test_the_mean_over_runs_has_the_interval_of_student_s_t(bench: Any) -> None:
    assert bench.over([0.5, 0.6, 0.7]) == "0.600 [0.352, 0.848]" and bench.over([0.05, 0.05], 100) == "5.0 [5.0, 5.0]"
