"""What a private run can come to is said before it starts, by the run's own figures; one that cannot learn is named."""

from __future__ import annotations

from collections.abc import Iterator
from math import sqrt
from typing import Any

import numpy as np
import pytest

from fedwarm.catalogue import parse
from fedwarm.codecs.dp_rec.plan import release_of, sigma_of
from fedwarm.codecs.dp_rec.reach import GOOD, LOST, Reach
from fedwarm.codecs.dp_rec.settings import DpRec
from fedwarm.launch.outlook import outlook
from fedwarm.privacy.views import Terms
from fedwarm.settings.fields import Value
from fedwarm.training.sizes import sizes_of

SMALL: dict[str, Value] = {"data.image-size": 8, "data.max-examples": 12}


def said(clients: int, **settings: Value) -> list[str]:
    """The lines about privacy before a run."""
    return [*told(clients, {key.replace("__", ".").replace("_", "-"): value for key, value in settings.items()})]


def told(clients: int, settings: dict[str, Value]) -> Iterator[str]:
    flat = {**SMALL, **settings, "method": str(settings.get("method", "fedavg")).replace("-", "_")}
    return outlook(parse(flat), clients)


@pytest.mark.parametrize(("cohort", "slots"), [(50, 50), (50, 80)])
def test_the_noise_is_as_long_as_that_of_a_sum(cohort: int, slots: int) -> None:
    reach = Reach(clip=2.0, sigma=0.3, size=400, cohort=cohort, slots=slots, rounds=9)
    draws = np.random.default_rng(0).normal(0, 0.3, (20, slots, 400))
    assert reach.noise == pytest.approx(np.linalg.norm(draws.sum(axis=1) / cohort, axis=1).mean(), rel=0.03)
    assert reach.run == pytest.approx(3 * reach.round) and reach.round == pytest.approx(2.0 / reach.noise)


def test_so_many_clients_make_noise_and_update_equally_long() -> None:
    reach = Reach(clip=1.0, sigma=0.5, size=1000, cohort=40, slots=40, rounds=1)
    assert reach.equal == 250 and Reach(1.0, 0.5, 1000, 250, 250, 1).round == pytest.approx(1.0)


@pytest.mark.parametrize(("ratio", "verdict", "warned"), [(0.9 * LOST, "lost", "cannot learn"), (LOST, "poor", "less than it"),
                                                          (GOOD, "good", "")])  # fmt: skip
def test_it_warns_below_what_was_seen_to_learn(ratio: float, verdict: str, warned: str) -> None:
    reach = Reach(clip=ratio * (1 + 1e-9), sigma=1.0, size=100, cohort=100, slots=100, rounds=1)
    lines = [*reach.lines()]
    assert reach.verdict == verdict and len(lines) == (2 if warned else 1) and warned in lines[-1]


def test_the_default_run_is_one_that_learns() -> None:
    first, second = said(200, method="dp_rec")
    assert first.startswith("epsilon 1.9") and "view central_certified, certified" in first and "at delta 1e-05" in first
    assert "200 clients is 0.75 long" in second and "970 numbers" in second and "over 5 rounds" in second


@pytest.mark.parametrize("settings", [{"method": "dp_rec", "dp-rec.view": "local", "model.name": "cnn"}, {"codec": "dp-rec"}])
def test_few_clients_in_the_local_view_are_warned(settings: dict[str, Value]) -> None:
    first, second, third = told(4, settings)
    assert "view local" in first and "signal to noise 0.0" in second and "cannot learn" in third


def test_epsilon_is_that_of_the_planned_run() -> None:
    config = parse({**SMALL, "method": "dp_rec", "fraction-train": 0.5, "dp-rec.mechanism": "gaussian"})
    settings, sizes, terms = config.of(DpRec), sizes_of(config), Terms("central_certified", 1e-5, 40, 20, 5)
    epsilon = terms.epsilon(release_of(settings, sizes, sigma_of(settings, sizes, terms)))
    first, second, *_ = outlook(config, 40)
    assert f"epsilon {epsilon:.4g} " in first
    noise = 5.7 * 0.75 * sqrt(sum(sizes)) / 20
    assert f"about {noise:.3g}" in second


def test_much_epsilon_is_called_next_to_no_promise() -> None:
    (first, *_) = told(10, {"codec": "dp-rec", "dp-rec.sigma": 0.2})
    assert "above 10 that is next to no promise" in first


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"method": "dp_rec", "dp-rec.mechanism": "none"},
        {"codec": "dp-rec", "dp-rec.target-epsilon": 1e-7, "dp-rec.delta": 1e-9},
        {"method": "warmfed", "codec": "dp-rec"},
        {"method": "dp_rec", "dp-rec.mechanism": "poisson", "dp-rec.view": "central_certified", "dp-rec.sigma": 0.01},
    ],
)
def test_where_nothing_is_known_nothing_is_said(settings: dict[str, Any]) -> None:
    assert not [line for line in told(4, settings) if "epsilon" in line]
