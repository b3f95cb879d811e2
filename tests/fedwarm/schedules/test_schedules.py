"""Schedules by their formulas, over rounds and over local steps, and what methods derive from steps of other sizes."""

from __future__ import annotations

from math import cos, pi
from typing import Any

import pytest
import torch
from torch import nn

from fedwarm.catalogue import parse
from fedwarm.launch.preflight import check_run
from fedwarm.methods import refuse
from fedwarm.rounds.extend import planned
from fedwarm.schedules import factor_of, never_full
from fedwarm.settings.fields import SettingError, Value
from fedwarm.settings.kinds import OPTIMISERS, SCHEDULES
from fedwarm.settings.registry import own_of
from fedwarm.training.plan import Plan, factors_of, path_of, rate_of

TEN: dict[str, Value] = {"num-server-rounds": 10, "learning-rate": 0.5}


def run(**settings: Value) -> Any:
    return parse({**TEN, **{key.replace("__", ".").replace("_", "-"): value for key, value in settings.items()}}).run


def rates(**settings: Value) -> list[float]:
    given = run(**settings)
    return [rate_of(given, number) for number in range(1, 11)]


def test_by_default_the_step_size_is_what_it_was_bit_for_bit() -> None:
    assert rates() == [0.5] * 10 and factors_of(run(), 4) == [1.0] * 4
    assert rates(learning_rate_decay=0.97) == [0.5 * 0.97 ** (n - 1) for n in range(1, 11)]
    assert rate_of(run(), 0) == 0.5


def test_cosine() -> None:
    assert rates(schedule="cosine") == pytest.approx([0.25 * (1 + cos(pi * n / 10)) for n in range(10)])
    assert rates(schedule="cosine", cosine__least=0.2) == pytest.approx([0.1 + 0.2 * (1 + cos(pi * n / 10)) for n in range(10)])


def test_step() -> None:
    assert rates(schedule="step", step__every=4, step__factor=0.5) == [0.5] * 4 + [0.25] * 4 + [0.125] * 2


def test_warmup_rises_in_equal_parts_and_the_schedule_begins_behind_it() -> None:
    assert rates(schedule_warmup=4) == pytest.approx([0.1, 0.2, 0.3, 0.4, *[0.5] * 6])
    both = rates(schedule="cosine", schedule_warmup=4)
    assert both == pytest.approx([0.1, 0.2, 0.3, 0.4, *(0.25 * (1 + cos(pi * n / 6)) for n in range(6))])


def test_a_warmup_that_outlasts_the_run_is_told() -> None:
    assert never_full(run(schedule_warmup=9)) == never_full(run(schedule_warmup=12, schedule_over="steps")) == ""
    assert "schedule-warmup = 10 and num-server-rounds = 10 learning-rate is never reached: the last round has 0.909 of it" in (
        never_full(run(schedule_warmup=10))
    )


def test_over_local_steps_every_round_is_alike() -> None:
    given = run(schedule="step", schedule_over="steps", step__every=2, step__factor=0.5, schedule_warmup=1)
    assert [rate_of(given, n) for n in (1, 5)] == [0.5, 0.5]
    assert factors_of(given, 6) == [0.5, 1.0, 1.0, 0.5, 0.5, 0.25]
    assert factor_of(given, "rounds", 3, 10) == 1.0


@pytest.mark.parametrize("optimiser", OPTIMISERS.own())
def test_an_optimiser_takes_steps_of_the_sizes_that_the_schedule_says(optimiser: str) -> None:
    """As a torch scheduler of the same factors does."""
    config = run(schedule="cosine", schedule_over="steps", optimiser=optimiser, momentum=0.5)
    ours, theirs = (nn.Parameter(torch.linspace(-2, 2, 7)) for _ in range(2))
    plan = Plan.of(config)
    mine, plain = plan.optimiser_of([ours], 5), plan.optimiser_of([theirs])
    for factor in factors_of(config, 5):
        plain.param_groups[0]["lr"] = factor * plan.learning_rate
        for weight, stepper in ((ours, mine), (theirs, plain)):
            stepper.zero_grad()
            weight.sin().sum().backward()
            stepper.step()
    assert torch.equal(ours, theirs) and not torch.equal(ours.detach(), torch.linspace(-2, 2, 7))


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("schedule", SCHEDULES.own())
def test_the_path_is_as_long_as_a_constant_gradient_moves(schedule: str, nesterov: bool) -> None:
    given = run(schedule=schedule, schedule_over="steps", schedule_warmup=2, sgd__nesterov=nesterov, step__every=3)
    weight = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimiser = Plan.of(given).optimiser_of([weight], 8)
    for _ in range(8):
        weight.grad = torch.ones(1, dtype=torch.float64)
        optimiser.step()
    assert path_of(given, 1, 8) == pytest.approx(-weight.item(), rel=1e-12)


def test_nesterov_and_adamws_settings_are_torchs() -> None:
    made = {
        "sgd": torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.5, momentum=0.9, nesterov=True),
        "adamw": torch.optim.AdamW([nn.Parameter(torch.ones(1))], lr=0.5, betas=(0.9, 0.95), eps=1e-4, weight_decay=0.0),
    }
    for name, theirs in made.items():
        given = run(optimiser=name, sgd__nesterov=True, adamw__beta2=0.95, adamw__eps=1e-4)
        assert Plan.of(given).optimiser_of([nn.Parameter(torch.ones(1))]).defaults == theirs.defaults


def test_refusals_before_a_run() -> None:
    with pytest.raises(SettingError, match=r"sgd.nesterov = true means nothing with momentum = 0; set momentum"):
        check_run({"method": "fedavg", "momentum": 0.0, "sgd.nesterov": True}, 2)
    for method in ("scaffold", "scaffold_m", "fedavg_m"):
        with pytest.raises(SettingError, match=rf"optimiser = 'adamw' cannot be used with method '{method}'.*steps of SGD"):
            refuse(parse({"method": method, "optimiser": "adamw"}))


def test_a_run_whose_rounds_depend_on_their_number_cannot_be_made_longer() -> None:
    assert "cosine" in planned(parse({"method": "fedavg", "schedule": "cosine"}))
    for other in ({"schedule": "cosine", "schedule-over": "steps"}, {"schedule": "step"}, {"schedule-warmup": 2}):
        assert planned(parse({"method": "fedavg", **other})) == ""


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_starts_at_1_and_stays_in_0_to_1(name: str) -> None:
    schedule = SCHEDULES.load(name)
    own = own_of(schedule, ())
    found = [schedule(done, 40, *own) for done in range(40)]
    assert found[0] == 1.0 and all(0 < factor <= 1 for factor in found) and found == sorted(found, reverse=True)
    assert found == [schedule(done, 40, *own) for done in range(40)]
