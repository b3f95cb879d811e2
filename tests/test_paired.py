"""What tables of paired runs say: differences seed by seed with their interval, and step sizes chosen where runs hold."""

from __future__ import annotations

import math
import statistics
from pathlib import Path
from typing import Any

import pytest

from fedwarm.core.failures import RunError
from tests.benches import loaded


@pytest.fixture
def paired(monkeypatch: pytest.MonkeyPatch) -> Any:
    return loaded(monkeypatch, "paired")


def result(value: float, sent: float = 0.0) -> dict[str, Any]:
    return {"value": value, "totals": {"bytes_up": sent, "bytes_down": 2 * sent, "seconds": 3.0}}


def test_an_interval_is_student_s_and_needs_three_values(paired: Any) -> None:
    values = [1.0, 2.0, 3.0, 4.0, 5.0]
    half = 2.7764451 * statistics.stdev(values) / math.sqrt(5)
    assert paired.interval(values) == f"{3 - half:.2f} to {3 + half:.2f}" == "1.04 to 4.96"
    assert paired.interval(values[:2]) == paired.interval([1.0, math.nan, 2.0]) == ""


def test_a_table_pairs_each_arm_s_seeds_with_those_of_the_first(paired: Any) -> None:
    rows = {"base": [result(v) for v in (1.0, 10.0, 100.0)], "other": [result(v + 2, 5e6) for v in (1.0, 10.0, 100.0)]}
    lines = paired.table(rows, {"found": lambda r: r["value"]}).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0] == ["arm", "found", "difference to the first arm", "95 % interval", "MB up", "MB down", "s"]
    assert len(cells[1]) == len(cells[0])
    assert cells[3][2:] == ["2.00 ± 0.00", "2.00 to 2.00", "5.0", "10.0", "3.0"]


def test_a_step_size_at_which_runs_break_is_never_the_best_one(
    paired: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def one(self: Any, arm: Any, seed: int) -> dict[str, Any]:
        assert seed == paired.TUNING_SEED
        if arm.settings["learning-rate"] > 1:
            raise RunError("no number")
        return result(arm.settings["learning-rate"])

    monkeypatch.setattr(paired.Bench, "one", one)
    made, arm = paired.Bench({}, 2, 1, tmp_path), paired.Arm("a", "fedavg", {"momentum": 0.0})
    best = made.tuned(arm, [0.1, 0.5, 3.0], lambda results: -10 / results["value"])
    assert best == paired.Arm("a, step size 0.5", "fedavg", {"momentum": 0.0, "learning-rate": 0.5})
