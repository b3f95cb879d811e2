"""Clients that die or send what cannot be used: asked once more, then left out by the policy or the end of the run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedwarm.core.payload import Payload
from fedwarm.measures.widths import WidthsClient
from fedwarm.methods import Method
from fedwarm.rounds.client import BaseClient
from fedwarm.rounds.fleet import FederationError
from fedwarm.settings.fields import Value
from tests.runs import Outcome, run, same

FAST: dict[str, Value] = {
    "num-server-rounds": 1,
    "local-epochs": 1,
    "data.max-examples": 20,
    "data.image-size": 16,
    "server-threads": 1,
}
Spoil = Callable[[Payload], Payload]


def crash(payload: Payload) -> Payload:
    raise RuntimeError("the battery is empty")


def nan(payload: Payload) -> Payload:
    name = next(iter(payload.arrays))
    payload.arrays[name] = np.full_like(payload.arrays[name], np.nan)
    return payload


def missing(payload: Payload) -> Payload:
    payload.arrays.pop(next(iter(payload.arrays)))
    return payload


def extra(payload: Payload) -> Payload:
    payload.arrays["private"] = np.ones(3, dtype=np.float32)
    return payload


def shape(payload: Payload) -> Payload:
    name = next(iter(payload.arrays))
    payload.arrays[name] = payload.arrays[name][:1]
    return payload


def dtype(payload: Payload) -> Payload:
    name = next(iter(payload.arrays))
    payload.arrays[name] = payload.arrays[name].astype(np.float64)
    return payload


def examples(payload: Payload) -> Payload:
    payload.metrics["num-examples"] = float("nan")
    return payload


SPOILS = {
    crash: "the battery is empty",
    nan: "NaN or infinity",
    missing: "differ in their names",
    extra: "private",
    shape: "expected float32",
    dtype: "float64",
    examples: "num-examples",
}


class Spoiling(BaseClient):
    """Client 1 spoils its first replies, as often and as `LEFT` says."""

    def round(self, payload: Payload) -> Payload:
        reply = super().round(payload)
        return LEFT.pop()(reply) if self.node.partition == 1 and LEFT else reply


LEFT: list[Spoil] = []
SPOILING = Method("Spoiling", "FedAvg, whose client 1 fails.", client=f"{__name__}:Spoiling")


def spoiled(folder: Path, spoil: Spoil, times: int, **more: Value) -> Outcome:
    """FedAvg's run in which client 1 spoils its first `times` replies."""
    LEFT[:] = [spoil] * times
    return run(f"{__name__}:SPOILING", folder, {**FAST, **more})


@pytest.mark.parametrize("spoil", SPOILS, ids=lambda s: s.__name__)
def test_what_cannot_be_used_is_named_and_left_out(spoil: Spoil, tmp_path: Path) -> None:
    outcome = spoiled(tmp_path / "run", spoil, 9, **{"min-replies": 3})
    failures = outcome.results["rounds"][0]["failures"]
    assert failures and all("client 1, round" in f and SPOILS[spoil] in f for f in failures)
    assert all(np.isfinite(a).all() for a in outcome.model.values())


def test_widths_that_were_not_asked_for_or_are_missing_do_no_harm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    original = WidthsClient.answer

    def answer(self: WidthsClient, action: str, payload: Payload, client: Any) -> Payload:
        found = {**original(self, action, payload, client).metrics, "correct-w99": 1}
        if client.node.partition == 1:
            found.pop("correct-w4")
        return Payload(metrics=found)

    monkeypatch.setattr(WidthsClient, "answer", answer)
    outcome = run("fedavg", tmp_path / "run", {**FAST, "min-replies": 3, "evaluate.bit-widths": "8,4"})
    assert list(outcome.results["final"]["bit_widths"]) == ["w8", "w4", "w8a8", "w4a4"]
    assert any("client 1" in f and "correct-w4" in f for f in outcome.results["rounds"][-1]["failures"])


def test_too_few_replies_end_the_run_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(FederationError, match=r"3 valid replies of 4, 4 are needed .*the battery is empty"):
        spoiled(tmp_path / "run", crash, 9)
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_a_second_try_gives_the_unbroken_run_s_model(tmp_path: Path) -> None:
    unbroken = run("fedavg", tmp_path / "unbroken", FAST)
    outcome = spoiled(tmp_path / "run", crash, 1)
    assert same(outcome.model, unbroken.model)
    assert len(outcome.results["rounds"][0]["failures"]) == 1


def test_where_training_diverges_the_run_says_what_to_do_and_keeps_its_ledger(tmp_path: Path) -> None:
    told = r"0 valid replies of 4, .*robust.limit = 1e-09 times .*lower learning-rate.*; and 1 more"
    with pytest.raises(FederationError, match=told):
        run("fedavg", tmp_path / "run", {**FAST, "robust.limit": 1e-9})
    lines = [json.loads(line) for line in (tmp_path / "run" / "ledger.jsonl").read_text().splitlines()]
    assert {line["client"] for line in lines if "robust.limit" in line["failure"]} == {0, 1, 2, 3}
