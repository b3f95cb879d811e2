"""How many clients, rounds and bits an epsilon takes: each row is a plan that is priced as a run is."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from typing import Any

import pytest

from fedwarm.cli.app import main
from fedwarm.codecs.dp_rec.planning import COHORTS, ROUNDS, plans
from fedwarm.codecs.dp_rec.pricing import answer
from fedwarm.codecs.dp_rec.question import Question
from fedwarm.settings.fields import SettingError

ASKED: dict[str, Any] = {"target_epsilon": 3.0, "update_size": 970, "mechanism": "gaussian"}


def test_a_row_is_the_plan_with_these_clients_and_rounds() -> None:
    found = plans({**ASKED, "mechanism": "coding", "bits": 3, "cohort": 20, "rounds": 2, "clip": 0.5})
    (row,) = found.rows
    wanted = {**ASKED, "mechanism": "coding", "bits": 3, "cohort": 20, "population": 20, "rounds": 2, "clip": 0.5}
    whole = answer(Question(**wanted, view="central_certified"))
    assert (row.sigma, row.message_bits, row.epsilon) == (whole.sigma, whole.message_bits, whole.epsilon) and row.epsilon <= 3.0
    assert row.signal_to_noise_round == pytest.approx(0.5 / (row.sigma * (970 / 20) ** 0.5))
    assert row.signal_to_noise == pytest.approx(2**0.5 * row.signal_to_noise_round) and found.certified


def test_more_clients_hear_more_and_all_of_the_grid_is_there() -> None:
    found = plans(ASKED)
    assert [(row.cohort, row.rounds) for row in found.rows] == [(n, t) for n in COHORTS for t in ROUNDS]
    of = {(row.cohort, row.rounds): row for row in found.rows}
    assert of[30, 20].signal_to_noise < of[100, 20].signal_to_noise < of[3000, 20].signal_to_noise
    assert of[30, 20].verdict == "poor" and of[3000, 20].verdict == "good" and of[30, 5].sigma < of[30, 80].sigma
    assert all(row.message_bits == 32 * 970 for row in found.rows)


def test_the_table_fits_eighty_columns() -> None:
    lines = plans({**ASKED, "update_size": 10**6}).lines()
    assert max(map(len, lines)) <= 80
    assert lines[:2] == ["epsilon 3 at delta 1e-05: certified", "view central_certified; all clients in each round"]
    assert lines[4].split() == ["clients", "rounds", "sigma", "z", "bits", "up", "S/N", "a", "round", "S/N", "a", "run", "learns"]


def test_clients_are_drawn_from_a_population_that_is_given() -> None:
    found = plans({**ASKED, "population": 400, "rounds": 5})
    assert [row.cohort for row in found.rows] == [30, 100, 300] and "rounds draw from 400 clients" in found.lines()[1]


def test_a_plan_that_cannot_be_is_left_out_with_its_reason() -> None:
    found = replace(plans({**ASKED, "cohort": 10, "rounds": 3}), left_out=["10 clients, 80 rounds: " + "there is no way " * 9])
    assert max(map(len, found.lines())) <= 80 and "left out: 10 clients, 80 rounds: there" in "\n".join(found.lines())
    with pytest.raises(SettingError, match="reaches it"):
        plans({**ASKED, "target_epsilon": 1e-9, "cohort": 10, "rounds": 3, "view": "local"})


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "--plan needs --target-epsilon"),
        ({"target_epsilon": 3.0}, "--plan needs --update-size"),
        ({**ASKED, "sigma": 1.0}, "--sigma cannot be used with --plan"),
        ({**ASKED, "mechanism": "dp-sgd"}, "cannot be used with --mechanism dp-sgd"),
    ],
)
def test_what_is_missing_is_named(given: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingError, match=words):
        plans(given)


def test_the_command_prints_the_table(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    options = "--plan --target-epsilon 3 --update-size 970 --mechanism gaussian --cohort 50"
    for more in ("", " --json"):
        monkeypatch.setattr(sys, "argv", ["fedwarm", "privacy", *(options + more).split()])
        with pytest.raises(SystemExit) as end:
            main()
        assert not end.value.code
        out, found = capsys.readouterr().out, plans({**ASKED, "cohort": 50})
        assert (json.loads(out) == found.json()) if more else (out.splitlines() == found.lines())
