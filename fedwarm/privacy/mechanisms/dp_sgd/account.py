"""DP-SGD's settings and price: what steps cost an example (Abadi et al., arXiv 1607.00133), by opacus' Renyi accountant."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from math import inf
from typing import Any

import numpy as np

from fedwarm.privacy.events import Sampled, dp_sgd_step
from fedwarm.privacy.random_coding import Curve
from fedwarm.privacy.views import calibrate
from fedwarm.settings.fields import Group, SettingError, setting

FRACTIONS = (1.1, 1.25, 1.5, 1.75, 2.25, 2.5, 2.75, 3.5, 4.5, 5.5)


ORDERS = (*FRACTIONS, *range(2, 65), 80, 96, 128, 160, 192, 224, 256, 384, 512)


LEAST_NOISE, MOST_NOISE = 0.01, 1e6
COVERS = ("weights", "example")


RENYI = "accountants.analysis.rdp"


@dataclass(frozen=True)
class DpSgd(Group, prefix="dp-sgd", used=lambda r: r.trains or r.adapts):
    """Settings of example-level privacy."""

    noise_multiplier: float = setting(
        1.0,
        "z, standard deviation of the noise in units of dp-sgd.clip; target-epsilon overrides it",
        low=LEAST_NOISE,
        when=lambda r: not r["dp-sgd.target-epsilon"],
    )
    clip: float = setting(1.0, "C, L2 norm to which each example's gradient is clipped", low=1e-12)
    delta: float = setting(
        1e-5,
        "delta of the (epsilon, delta) guarantee for each example",
        low=1e-300,
        high=0.5,
        when=lambda r: r.shares or r["dp-sgd.target-epsilon"] > 0,
    )
    target_epsilon: float = setting(
        0.0, "privacy budget of each example over the run, to which the noise is calibrated; 0: use noise-multiplier", low=0.0
    )
    chunk: int = setting(16, "examples whose gradients are computed together; more need more memory; 1: one after another", low=1)
    entropy: str = setting(
        "system", "system: private draws from the operating system; seeded: from the run's seed, for experiments, not private",
        choices=("system", "seeded"),
    )  # fmt: skip


@dataclass(frozen=True)
class Steps:
    """So many steps of DP-SGD: what a client tells the account.

    Attributes:
        rate: q, the chance of an example to take part in a step.
        noise_multiplier: z.
        count: steps taken.
    """

    rate: float
    noise_multiplier: float
    count: int

    def __post_init__(self) -> None:
        if not (0 < self.rate <= 1 and 0 <= self.noise_multiplier < inf and self.count >= 0):
            raise SettingError(
                f"{self} is out of range; it must have 0 < rate <= 1, a finite noise multiplier of at least 0 and a "
                "count of at least 0"
            )

    @property
    def event(self) -> Sampled:
        """One of these steps as an event of `fedwarm.privacy`."""
        return dp_sgd_step(self.noise_multiplier, self.rate)


def example_epsilon(taken: Iterable[Steps], delta: float) -> float:
    """Epsilon of an example of one client after all of these steps, by opacus' Renyi accountant; 0 where there are none.

    The Renyi bound is certain in both directions (Mironov, Talwar, Zhang, arXiv 1908.10530, theorem 5). Opacus' PRV accountant is
    tighter, but prices one direction alone and fails for large epsilon: it is a check in the tests, never a claim.
    """
    steps = [s for s in taken if s.count]
    if not steps:
        return 0.0
    spent = sum((_curve(s.rate, s.noise_multiplier) * s.count for s in steps), np.zeros(len(ORDERS)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns where the best order is the last one; the bound holds at every order
        epsilon, _ = opacus_part(RENYI).get_privacy_spent(orders=ORDERS, rdp=spent, delta=delta)
    return max(0.0, float(epsilon))


@lru_cache(maxsize=256)
def _curve(rate: float, noise_multiplier: float) -> Curve:
    return np.asarray(opacus_part(RENYI).compute_rdp(q=rate, noise_multiplier=noise_multiplier, steps=1, orders=ORDERS))


def noise_of(settings: DpSgd, plan: Iterable[tuple[float, int]]) -> float:
    """z: as set, or the smallest whose epsilon over the plan, all (rate, steps) of a client in the run, is the target at most.

    Raises:
        SettingError: no noise reaches the target.
    """
    steps = tuple(plan)
    if not settings.target_epsilon:
        return settings.noise_multiplier
    return _calibrated(settings.target_epsilon, settings.delta, steps)


@lru_cache(maxsize=256)
def _calibrated(target: float, delta: float, plan: tuple[tuple[float, int], ...]) -> float:
    def epsilon(noise: float) -> float:
        return example_epsilon((Steps(rate, noise, count) for rate, count in plan), delta)

    high = 1.0
    while epsilon(high) > target and high < MOST_NOISE:
        high *= 2
    return calibrate(epsilon, target, low=high / 2 if high > 1 else LEAST_NOISE, high=high)


def rate_of(examples: int, batch_size: int) -> float:
    """q such that a step expects `batch_size` examples, or all of them.

    Raises:
        SettingError: there are no examples.
    """
    if examples < 1:
        raise SettingError("dp-sgd needs at least one training example; this client has none: give it data, or run without it")
    return min(1.0, batch_size / examples)


def opacus_part(part: str) -> Any:
    """A module of opacus: loaded when first needed, as that takes seconds, and without the log handler that it sets up."""
    root = logging.getLogger()
    handlers = list(root.handlers)
    try:
        return import_module(f"opacus.{part}")
    finally:
        root.handlers[:] = handlers
