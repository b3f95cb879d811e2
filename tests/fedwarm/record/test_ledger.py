"""The ledger: sums per client and round, evaluation apart, failures by name."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, asdict

import pytest

from fedwarm.record.ledger import EVALUATE, Entry, Ledger


def entry(number: int, stage: str, client: int, down: int, up: int, failure: str = "") -> Entry:
    return Entry(number, stage, client, down, down + 128, up, up + 256, 0.5, failure)


def booked() -> Ledger:
    ledger = Ledger([entry(0, "adapt", 0, 0, 1000), entry(0, "adapt", 2, 0, 3000)])
    ledger.add(entry(0, "distill", 0, 50, 0))
    ledger.add(entry(0, EVALUATE, 1, 70, 10))
    ledger.add(entry(1, "round", 1, 500, 600))
    ledger.add(entry(1, "round", 2, 500, 0, "w holds NaN or infinity"))
    ledger.add(entry(1, "round", 2, 500, 600))
    return ledger


def test_bytes_per_client_and_round_are_those_on_the_wire() -> None:
    ledger = booked()
    assert ledger.up(0, 3) == [1000 + 256 + 256, 0, 3256]
    assert ledger.down(0, 3) == [128 + 50 + 128, 0, 128]
    assert ledger.up(1, 3) == [0, 856, 256 + 856]
    assert ledger.down(1, 3) == [0, 628, 2 * 628]
    assert ledger.up(2, 3) == ledger.down(2, 3) == [0, 0, 0]


def test_evaluation_is_booked_apart() -> None:
    assert booked().evaluation(0) == 70 + 128 + 10 + 256
    assert booked().evaluation(1) == 0


def test_failures_name_client_stage_and_reason() -> None:
    assert booked().failures(0) == []
    assert booked().failures(1) == ["client 2, round: w holds NaN or infinity"]


def test_lines_are_json_in_the_order_of_booking() -> None:
    ledger = booked()
    lines = ledger.lines().splitlines()
    assert ledger.lines().endswith("\n")
    assert [Entry(**json.loads(line)) for line in lines] == ledger.entries
    assert json.loads(lines[0]) == {name: value for name, value in asdict(ledger.entries[0]).items() if name != "site"}
    assert Ledger().lines() == ""


def test_a_ledger_owns_its_list_and_entries_do_not_change() -> None:
    entries = [entry(0, "round", 0, 1, 1)]
    ledger = Ledger(entries)
    ledger.add(entry(0, "round", 1, 1, 1))
    assert len(entries) == 1
    with pytest.raises(FrozenInstanceError):
        ledger.entries[0].client = 3  # type: ignore[misc]
