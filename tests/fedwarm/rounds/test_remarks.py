"""What a stage's replies, or their absence, say to who reads the record."""

from __future__ import annotations

from fedwarm.core.payload import Payload
from fedwarm.core.stages import Stage
from fedwarm.rounds.remarks import unmeasured


def test_a_round_that_no_client_measured_is_told() -> None:
    stage = Stage(2, "evaluate", "evaluate", (0, 1), 2)
    assert unmeasured(stage, {}) == ["round 2 is not measured: no client's evaluation was valid; ledger.jsonl says why"]
    assert not unmeasured(stage, {1: Payload(metrics={"num-test": 0})})
    assert not unmeasured(Stage(2, "evaluate", measures=2), {}), "the server measures it"
    assert not unmeasured(Stage(2, "round", "train", (0, 1)), {})
