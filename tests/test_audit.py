"""The audit passes an honest account, fails a broken one, and its lower bounds are lower bounds."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from scipy import stats

from fedwarm.coding.streams import Stream

PATH = Path(__file__).parents[1] / "benchmarks" / "dp_rec_audit.py"


@pytest.fixture(scope="module")
def audit() -> ModuleType:
    found = importlib.util.spec_from_file_location("dp_rec_audit", PATH)
    assert found and found.loader
    module = importlib.util.module_from_spec(found)
    sys.modules[found.name] = module
    found.loader.exec_module(module)
    return module


def test_the_account_stands(audit: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert audit.main(["--runs", "60", "--out", str(tmp_path / "audit.json")]) == 0
    rows = json.loads((tmp_path / "audit.json").read_text())["rows"]
    assert len(rows) == len(audit.SETTINGS) >= 6
    assert all(0 <= row["lower"] <= row["epsilon"] and row["holds"] for row in rows)
    assert "0 of 9 lower bounds above the account" in capsys.readouterr().out


@pytest.mark.parametrize("broken", ["clip", "sigma", "seeded"])
def test_a_broken_account_is_found_out(audit: ModuleType, broken: str) -> None:
    name = {"clip": "replacement", "sigma": "Gaussian, four rounds", "seeded": "many participations"}[broken]
    setting = next(s for s in audit.SETTINGS if s.name == name)
    assert not audit.audit(setting, 1000 if broken == "sigma" else 200, 1, 0.95, broken).holds


def test_a_broken_account_fails_the_command(
    audit: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(audit, "SETTINGS", audit.SETTINGS[-1:])
    assert audit.main(["--runs", "300"]) == 0
    assert audit.main(["--runs", "300", "--broken"]) == 1
    assert "**ABOVE**" in capsys.readouterr().out


def test_the_canary_costs_what_the_account_prices(audit: ModuleType) -> None:
    for setting in audit.SETTINGS[:7]:
        codec, stream = audit.codec_of(setting), Stream(1, 1, 1)
        v = codec.prepare(audit.canary_of(codec, stream), stream)
        spent = sorted((float(x) for x in codec.blocks.squares(v) if x > 1e-12), reverse=True)
        event = audit.event_of(setting)
        worst = getattr(event, "event", event).worst()
        wanted = sorted((x for x, count in worst for _ in range(count) if x > 1e-12), reverse=True)
        np.testing.assert_allclose(spent, wanted, rtol=1e-9)


def test_the_statistic_is_the_likelihood_ratio(audit: ModuleType) -> None:
    """Under the ratio's own law the mean of e^L is 1 where the canary is absent; the mean of e^-L is 1 where it is present."""
    scores = np.array([audit.game_of(audit.SETTINGS[3], 3, None)(number) for number in range(100)])
    for weights in (np.exp(scores[:, 1]), np.exp(-scores[:, 0])):
        assert abs(weights.mean() - 1) < 4 * weights.std() / 10


def test_lower_bounds_hold_as_often_as_they_say(audit: ModuleType) -> None:
    """Two normals a distance of 1 apart, whose delta of epsilon is known: 95 % bounds fail in at most about 5 % of 200 trials."""
    delta, draws = 0.05, np.random.default_rng(0)
    grid = np.linspace(0.5, 3, 20_001)
    true = grid[np.argmin(np.abs(stats.norm.cdf(0.5 - grid) - np.exp(grid) * stats.norm.cdf(-0.5 - grid) - delta))]
    found = []
    for _ in range(200):
        present, absent = draws.normal(0.5, 1, 1000), draws.normal(-0.5, 1, 1000)
        found.append(audit.lower_bound(present, absent, delta, 0.95)[0])
    assert np.mean(np.array(found) > true) <= 0.05
    assert np.mean(found) > 0.4 * true


@pytest.mark.parametrize(
    ("alarms", "wrong", "wanted"),
    [(0, 0, 0.0), (100, 100, 0.0), (100, 0, np.log((0.025 ** (1 / 100) - 0.01) / (1 - 0.025 ** (1 / 100))))],
)
def test_limits_at_the_edges(audit: ModuleType, alarms: int, wrong: int, wanted: float) -> None:
    assert audit.least_epsilon(np.array([alarms]), np.array([wrong]), 100, 0.01, 0.95)[0] == pytest.approx(wanted)


def test_too_few_runs_are_refused(audit: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        audit.main(["--runs", "1"])
    assert "--runs 1" in capsys.readouterr().err
