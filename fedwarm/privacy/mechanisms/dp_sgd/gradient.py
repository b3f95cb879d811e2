"""Example-level privacy of local training: DP-SGD, for classifiers and for adapters.

Abadi, Chu, Goodfellow, McMahan, Mironov, Talwar, Zhang, "Deep Learning with Differential Privacy", CCS 2016, arXiv 1607.00133,
algorithm 1: an example takes part in a step with probability q, its gradient is clipped to norm C, the sum gets noise
N(0, z^2 C^2 I) and is divided by the number of examples expected. Whatever a client sends of what it so trained costs no more
than its steps do together. Neighbours differ by one example, which is there or not; how many a client holds counts as public.

Opacus clips and prices. The gradients of single examples are `torch.func`'s: opacus' hooks on layers break on ResNet's in-place
sums, and find no gradient in a U-Net with checkpoints or in evaluation mode.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from math import ceil, inf
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from fedwarm.core.seeds import Key, numpy_generator
from fedwarm.privacy.events import Sampled, dp_sgd_step
from fedwarm.privacy.random_coding import Curve
from fedwarm.privacy.randomness import SYSTEM, Source, normals
from fedwarm.privacy.sampling import poisson_cohort
from fedwarm.privacy.views import calibrate
from fedwarm.settings.fields import Group, SettingError, setting

FRACTIONS = (1.1, 1.25, 1.5, 1.75, 2.25, 2.5, 2.75, 3.5, 4.5, 5.5)
ORDERS = (*FRACTIONS, *range(2, 65), 80, 96, 128, 160, 192, 224, 256, 384, 512)
LEAST_NOISE, MOST_NOISE = 0.01, 1e6
RENYI = "accountants.analysis.rdp"
Loss = Callable[..., Tensor]


@dataclass(frozen=True)
class DpSgd(Group, prefix="dp-sgd", used=lambda r: r["privacy"] == "dp-sgd" and (r.trains or r.adapts)):
    """Settings of example-level privacy."""

    noise_multiplier: float = setting(
        1.0,
        "z, scale of the noise in units of clip; with target-epsilon it is found",
        low=LEAST_NOISE,
        when=lambda r: not r["dp-sgd.target-epsilon"],
    )
    clip: float = setting(1.0, "C, the most Euclidean norm of an example's gradient", low=1e-12)
    delta: float = setting(
        1e-5,
        "delta of (epsilon, delta) of an example",
        low=1e-300,
        high=0.5,
        when=lambda r: r.shares or r["dp-sgd.target-epsilon"] > 0,
    )
    target_epsilon: float = setting(0.0, "epsilon of an example over the run: the noise is made for it; 0: none", low=0.0)
    chunk: int = setting(16, "gradients of examples held at once; 1: one after another, by plain backward passes", low=1)
    entropy: str = setting(
        "system", "system: private draws from the operating system; seeded: from the run's seed, for experiments, not private",
        choices=("system", "seeded"),
    )  # fmt: skip


# The price


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
            raise SettingError(f"{self}: needed are 0 < rate <= 1, a finite noise multiplier and a count, none of them negative")

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
        epsilon, _ = _opacus(RENYI).get_privacy_spent(orders=ORDERS, rdp=spent, delta=delta)
    return max(0.0, float(epsilon))


@lru_cache(maxsize=256)
def _curve(rate: float, noise_multiplier: float) -> Curve:
    return np.asarray(_opacus(RENYI).compute_rdp(q=rate, noise_multiplier=noise_multiplier, steps=1, orders=ORDERS))


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
        raise SettingError("dp-sgd needs at least one training example; this client has none")
    return min(1.0, batch_size / examples)


def steps_of(examples: int, batch_size: int, epochs: int) -> int:
    """Steps of so many epochs: as many as without privacy."""
    return epochs * ceil(examples / batch_size)


# The mechanism


@dataclass(frozen=True)
class Mechanism:
    """How steps are made private.

    Attributes:
        clip: C.
        noise_multiplier: z.
        chunk: examples whose gradients are held at once; 1: one after another.
        source: private bytes for who takes part, the noise, and an example's own random draws.
    """

    clip: float
    noise_multiplier: float
    chunk: int = 16
    source: Source = SYSTEM

    @staticmethod
    def of(settings: DpSgd, plan: Iterable[tuple[float, int]], source: Source = SYSTEM) -> Mechanism:
        """By the settings; for `plan` see `noise_of`, for `source` see `source_of`."""
        return Mechanism(settings.clip, noise_of(settings, plan), settings.chunk, source)

    def steps(self, examples: int, batch_size: int, count: int) -> Steps:
        """What `count` steps over so many examples tell the account."""
        return Steps(rate_of(examples, batch_size), self.noise_multiplier, count)

    def rows(self, examples: int, batch_size: int) -> Tensor:
        """The examples of a step, int64 (b,), ascending: any number of them, often none where there are few."""
        return torch.tensor(poisson_cohort(examples, rate_of(examples, batch_size), self.source), dtype=torch.int64)

    def generator(self) -> torch.Generator:
        """For random draws that belong to examples: secret, else those of one example would tell who came before it."""
        return torch.Generator().manual_seed(int.from_bytes(self.source(8), "little") >> 1)


def source_of(settings: DpSgd, seed: int, *keys: Key) -> Source:
    """Private bytes: the operating system's, or for experiments those of the run's seed and the keys."""
    return SYSTEM if settings.entropy == "system" else numpy_generator(seed, "dp-sgd", *keys).bytes


class PrivateGradient:
    """Puts the noised mean of clipped gradients into the parameters' `grad`; the optimiser steps after that as it always does.

    Args:
        module: trains in training mode; nothing in it may mix examples.
        optimiser: over the parameters.
        parameters: those that train, by the names that the loss knows them by.
        mechanism: clip, noise and private bytes.
        expected: examples expected in a step, what the sum is divided by.
        scale: what the loss is multiplied by, and the gradients are divided by again.

    Raises:
        SettingError: a layer keeps statistics of examples.
    """

    def __init__(
        self,
        module: nn.Module,
        optimiser: torch.optim.Optimizer,
        parameters: Mapping[str, nn.Parameter],
        mechanism: Mechanism,
        expected: float,
        scale: float = 1.0,
    ) -> None:
        _check(module)
        self.parameters, self.mechanism, self.expected, self.scale = dict(parameters), mechanism, expected, scale
        self._clipper = _opacus("optimizers").DPOptimizer(
            optimiser,
            noise_multiplier=mechanism.noise_multiplier,
            max_grad_norm=mechanism.clip,
            expected_batch_size=None,
            loss_reduction="sum",
        )

    def __call__(self, loss: Loss, examples: tuple[Tensor, ...]) -> None:
        """One step's gradient, in parts of `mechanism.chunk` examples.

        Args:
            loss: (parameters by name, one example as a batch of one for each tensor) -> scalar.
            examples: tensors (b, ...); b may be 0, then the gradient is noise.
        """
        self._clipper.zero_grad(set_to_none=True)
        for part in zip(*(t.split(self.mechanism.chunk) for t in examples), strict=True):
            found = example_gradients(loss, self.parameters, part, self.mechanism.chunk > 1)
            for name, gradient in found.items():
                sample: Any = self.parameters[name]
                sample.grad_sample = (gradient / self.scale).nan_to_num(0.0, 0.0, 0.0)
            self._clipper.clip_and_accumulate()
        for parameter in self.parameters.values():
            held: Any = parameter
            parameter.grad = self._noised(held.summed_grad)
            del held.grad_sample, held.summed_grad

    def _noised(self, total: Tensor) -> Tensor:
        noise = torch.from_numpy(normals(total.numel(), self.mechanism.source)).view(total.shape)
        spread = self.mechanism.noise_multiplier * self.mechanism.clip
        return ((total.cpu().double() + spread * noise) / self.expected).to(total)


def example_gradients(
    loss: Loss, parameters: Mapping[str, nn.Parameter], examples: tuple[Tensor, ...], together: bool
) -> dict[str, Tensor]:
    """The gradient (b, *shape) of each example's own loss, by name; all at once by vmap, or one after another."""
    if not len(examples[0]):
        return {name: p.new_zeros(0, *p.shape) for name, p in parameters.items()}
    if together:
        each = vmap(
            grad(lambda weights, *one: loss(weights, *(t[None] for t in one))),
            in_dims=(None, *(0 for _ in examples)),
            randomness="different",
        )
        with sdpa_kernel(SDPBackend.MATH):
            found: dict[str, Tensor] = each({name: p.detach() for name, p in parameters.items()}, *examples)
        return found
    named, weights = dict(parameters), list(parameters.values())
    rows = []
    for i in range(len(examples[0])):
        value = loss(named, *(t[i : i + 1] for t in examples))
        rows.append(torch.autograd.grad(value, weights, allow_unused=True, materialize_grads=True))
    return {name: torch.stack(column) for name, column in zip(named, zip(*rows, strict=True), strict=True)}


def _check(module: nn.Module) -> None:
    for name, part in module.named_modules():
        if getattr(part, "track_running_stats", False):
            raise SettingError(f"dp-sgd cannot train layer {name!r}, which keeps statistics of examples; use GroupNorm")


def _opacus(part: str) -> Any:
    """A module of opacus: loaded when first needed, as that takes seconds, and without the log handler that it sets up."""
    root = logging.getLogger()
    handlers = list(root.handlers)
    try:
        return import_module(f"opacus.{part}")
    finally:
        root.handlers[:] = handlers
