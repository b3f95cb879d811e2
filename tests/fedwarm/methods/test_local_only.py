"""Training without federation: what is refused, and how it ends where training diverges."""

from __future__ import annotations

from pathlib import Path

import pytest

from clients.local_only import LocalOnlyClient
from fedwarm.core.payload import Payload
from fedwarm.launch.preflight import check_run
from fedwarm.rounds.server import FederationError
from fedwarm.settings.fields import SettingError, Value
from tests.runs import run

SMALL: dict[str, Value] = {"data.max-examples": 24, "data.image-size": 8, "model.name": "mlp", "num-server-rounds": 1}


def test_a_codec_that_would_hide_how_good_own_models_are_is_refused() -> None:
    with pytest.raises(SettingError, match="sends no model, and codec = 'dp-rec' hides .*; leave codec out"):
        check_run({"method": "local_only", "codec": "dp-rec"}, 4)
    check_run({"method": "local_only", "codec": "stochastic-rounding"}, 4)


def test_a_model_that_diverged_is_no_result(tmp_path: Path) -> None:
    with pytest.raises(FederationError, match="its model holds NaN or infinity; lower learning-rate"):
        run("local_only", tmp_path / "run", {**SMALL, "learning-rate": 1e30}, clients=2)


def test_a_run_says_which_rounds_nobody_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LocalOnlyClient, "evaluate", lambda self, payload: Payload(metrics={"num-test": -1}))
    outcome = run("local_only", tmp_path / "run", SMALL, clients=2)
    assert "round 1 is not measured: no client's evaluation was valid; ledger.jsonl says why" in outcome.results["notes"]
