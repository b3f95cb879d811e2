"""Clients that die or send what cannot be used: asked once more, then left out by the policy or the end of the run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedwarm.core.payload import Payload
from fedwarm.measures.widths import WidthsClient
from fedwarm.rounds.client import BaseClient
from fedwarm.rounds.fleet import FederationError
from fedwarm.settings.fields import Value
from tests.runs import run, same

FAST: dict[str, Value] = {"num-server-rounds": 1, "local-epochs": 1, "data.max-examples": 20}
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


def spoiled(monkeypatch: pytest.MonkeyPatch, spoil: Spoil, times: int) -> None:
    """Client 1 spoils its first `times` replies."""
    original, left = BaseClient.round, [times]

    def round_(self: Any, payload: Payload) -> Payload:
        reply = original(self, payload)
        if self.node.partition == 1 and left[0] > 0:
            left[0] -= 1
            return spoil(reply)
        return reply

    monkeypatch.setattr(BaseClient, "round", round_)


@pytest.mark.parametrize("spoil", SPOILS, ids=lambda s: s.__name__)
def test_what_cannot_be_used_is_named_and_left_out(spoil: Spoil, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    spoiled(monkeypatch, spoil, times=9)
    outcome = run("fedavg", tmp_path / "run", {**FAST, "min-replies": 3})
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


def test_too_few_replies_end_the_run_with_the_reason(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    spoiled(monkeypatch, crash, times=9)
    with pytest.raises(FederationError, match=r"3 valid replies of 4, 4 are needed .*the battery is empty"):
        run("fedavg", tmp_path / "run", FAST)
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_a_second_try_gives_the_unbroken_run_s_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    unbroken = run("fedavg", tmp_path / "unbroken", FAST)
    spoiled(monkeypatch, crash, times=1)
    outcome = run("fedavg", tmp_path / "run", FAST)
    assert same(outcome.model, unbroken.model)
    assert len(outcome.results["rounds"][0]["failures"]) == 1
