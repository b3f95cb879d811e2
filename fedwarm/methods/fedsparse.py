"""FedSparse: Louizos, Reisser, Soriaga, Welling, "An Expectation-Maximization Perspective on Federated Learning",
arXiv 2111.10192 (2021); related applications: WO2022067355A1, US20230169350A1.

Federated learning as hard expectation maximisation under a spike-and-slab prior: the server holds weights w and the probability
theta that a group of weights is on; clients train their own under that prior, and groups that few of them want go. Public text
fixes neither strengths nor schedules; where the code had to choose, the choice is a setting.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from fedwarm.core.arrays import Arrays
from fedwarm.methods import Method, refuse_early_end
from fedwarm.settings.config import Config
from fedwarm.settings.fields import Group, setting
from fedwarm.sparse import hard_concrete, replies
from fedwarm.sparse.groups import Floats, Groups, Mask, Masks
from fedwarm.sparse.plan import HALF, Turn

UNITS, POSTERIOR = "units", "posterior"


def _learned(run: Any) -> bool:
    return bool(run["fedsparse.gates"] != "on")


def _trained(run: Any) -> bool:
    return bool(run["fedsparse.gates"] == "learned")


def _by_unit(run: Any) -> bool:
    return _learned(run) and bool(run["fedsparse.groups"] == UNITS)


def _planned(run: Any) -> bool:
    return _learned(run) and bool(run["fedsparse.density"] > 0)


def _whole(run: Any) -> bool:
    """Whether the posterior decides what falls, and then the whole of it for good, so that theta has no other values."""
    once = run["fedsparse.down"] == "sampled" and run["fedsparse.theta"] >= HALF
    return _planned(run) and not _trained(run) and bool(run["fedsparse.falls"] != "part" and once)


def _prunes(run: Any) -> bool:
    """Whether groups may go before gates end."""
    rounds = int(run["num-server-rounds"])
    first = run["fedsparse.prune-start"] or max(1, rounds // 2)
    return _learned(run) and first <= (run["fedsparse.settle-start"] or max(1, 2 * rounds // 3))


@dataclass(frozen=True)
class FedSparse(Group, prefix="fedsparse"):
    """Settings of FedSparse."""

    gates: str = setting(
        "learned", "gates of groups of weights; learned: clients train one for each group; posterior: the probability that a "
        "group is on follows from its trained weights, small ones are off; on: all groups stay, which is FedAvg or FedProx",
        choices=("learned", POSTERIOR, "on"),
    )  # fmt: skip
    spike: float = setting(
        3000.0, "lambda_2, precision of weights that are off, around 0, for a summed loss; with a planned density the larger, "
        "the sharper is the edge between on and off; without one, the smaller are the weights that are off", low=1e-6,
        when=lambda r: not _trained(r) and _learned(r),
    )  # fmt: skip
    groups: str = setting(
        UNITS, "weights that share a gate; units: those of a feature map or of a linear layer's input, and the network becomes "
        "smaller; weights: each has its own, and the network keeps its size, with zeros in it",
        choices=(UNITS, "weights"), when=_learned,
    )  # fmt: skip
    precision: float = setting(
        1.0, "lambda, pull of a client's weights to the server's, for a loss summed over its images; 0: none", low=0.0
    )
    density: float = setting(
        0.2, "share of the model's numbers that is left at the end, to which it falls by a plan; 0: no plan, lambda_0 alone "
        "decides", low=0.0, high=1.0, when=_learned,
    )  # fmt: skip
    density_rounds: int = setting(
        0, "rounds over which the planned density falls from 1 to its value; 0: a third of the rounds, two thirds with "
        "gates='posterior'", low=0, when=_planned,
    )  # fmt: skip
    density_band: float = setting(
        0.05, "density above the plan at which the whole of lambda_0 is charged; proportionally less for less", low=1e-6,
        when=lambda r: _planned(r) and _trained(r),
    )  # fmt: skip
    falls: str = setting(
        "auto", "what falls in a round under a planned density; part: theta of the groups that are wanted least, as far as "
        "clients have it; whole: so many of these groups as the plan asks for, each to the least theta at once; auto: whole with "
        "gates='posterior', else part", choices=("auto", "part", "whole"), when=_planned,
    )  # fmt: skip
    lambda0: float = setting(
        0.05, "lambda_0, penalty of each open gate, for a summed loss; with a planned density only where it starts; without one, "
        "larger values make sparser models", low=0.0, when=_trained,
    )  # fmt: skip
    warmup: int = setting(
        8, "rounds over which the penalty lambda_0 grows from 0 to its value", low=0,
        when=lambda r: _learned(r) and not r["fedsparse.density"],
    )  # fmt: skip
    lambda0_per: str = setting(
        "weight",
        "unit of the penalty lambda_0; weight: each weight of a group; gate: each group",
        choices=("weight", "gate"),
        when=_by_unit,
    )
    theta: float = setting(0.99, "theta, initial probability that a group of weights is kept", low=0.05, high=0.99, when=_learned)
    gate_rate: float = setting(20.0, "learning rate of the gates", low=0.0, when=_trained)
    down: str = setting(
        "sampled", "groups that clients receive; sampled: drawn with probability theta; dense: all", choices=("sampled", "dense"),
        when=_learned,
    )  # fmt: skip
    up: str = setting(
        "mask",
        "groups that clients send; mask: drawn with their own probabilities; logits: those open without noise, each "
        "with its probability, for few clients a round",
        choices=("mask", "logits"), when=_learned,
    )  # fmt: skip
    weight_by: str = setting(
        "examples",
        "weight of a client in the average; examples: its number of images; clients: the same for all",
        choices=("examples", "clients"),
    )
    server_rate: float = setting(1.0, "eta_w, learning rate of the server for weights; 1: the clients' mean", low=1e-6, high=1.0)
    theta_rate: float = setting(
        0.5, "eta_theta, learning rate of the server for the probabilities theta; 1: the clients' mean", low=1e-6, high=1.0,
        when=lambda r: _learned(r) and not _whole(r),
    )  # fmt: skip
    prune_start: int = setting(0, "round after which groups can be removed for good; 0: half of the rounds", low=0, when=_learned)
    tau: float = setting(
        0.1,
        "a group whose probability theta is below this is removed for good, after prune-start",
        low=0.0,
        high=0.5,
        when=lambda r: _prunes(r) and not _whole(r),
    )
    theta_min: float = setting(
        0.05, "lower limit of the probabilities theta before prune-start, so that a group can return", low=0.0, high=0.5,
        when=lambda r: _trained(r) and (r["fedsparse.prune-start"] or r["num-server-rounds"] // 2) > 1,
    )  # fmt: skip
    settle_start: int = setting(
        0, "round after which the units that are on stay and train on without gates, and the others are gone; with a density so "
        "many of the likeliest as it has room for; 0: once the density is reached, at the latest two thirds of the rounds", low=0,
        when=_learned,
    )  # fmt: skip
    final: str = setting(
        "hard", "final model; hard: groups with theta of at least 1/2; mean: all groups, each times its expected gate",
        choices=("hard", "mean"), when=_learned,
    )  # fmt: skip

    def price(self, number: int, rounds: int, density: float) -> float:
        """lambda_0 in a round, counted from 1, that starts at a density."""
        most = self.lambda0 if self.trains else max(0.0, math.log(self.spike / (self.precision or 1.0)) / 2)
        if not self.density:
            return most * min(1.0, (number - 1) / self.warmup) if self.warmup else most
        excess = density - self.planned(number, rounds)
        return most * min(1.0, max(0.0, excess) / self.density_band)

    def worth(self, groups: Groups, arrays: Arrays, theta: Floats, live: Masks) -> Floats:
        """The lambda_0 at which the posterior of each group (G,) is 1/2 at the server's weights; it prices a planned density."""
        squares = groups.squares({name: torch.from_numpy(arrays[name] * live[name]).double() for name in groups.places}).numpy()
        costs = groups.sizes_of(live) if self.lambda0_per == "weight" else np.ones(groups.count)
        inside = hard_concrete.active(hard_concrete.log_alpha_of(torch.from_numpy(theta))).numpy()  # as clients have it
        found: Floats = (np.log(inside / (1 - inside)) + self.spike * squares / 2) / np.maximum(costs, 1)
        return found

    def planned(self, number: int, rounds: int) -> float:
        """The density that is planned for the end of a round, counted from 1."""
        over = self.density_rounds or max(1, (1 if self.trains else 2) * rounds // 3)
        if self.whole:
            over = min(over, self.settled_from(rounds))  # gates that end earlier have no order then
        return self.density + (1 - self.density) * max(0.0, 1 - number / over)

    def settled_from(self, rounds: int) -> int:
        """The round after which no gate changes any more, at the latest."""
        return self.settle_start or max(1, 2 * rounds // 3)

    def turn(self, number: int, rounds: int) -> Turn:
        """What a round, counted from 1, may do to gates."""
        planned, goes = self.planned(number, rounds), number >= (self.prune_start or max(1, rounds // 2))
        ends = number == self.settled_from(rounds)
        may_end = not self.settle_start and 0 < planned <= self.density
        least = self.tau if goes else self.theta_min if self.trains else 0.0
        return Turn(planned, self.density, least, goes, ends, may_end, self.whole)

    @property
    def whole(self) -> bool:
        """Whether groups that fall under a plan fall whole."""
        return self.falls == "whole" or (self.falls == "auto" and not self.trains)

    @property
    def learns(self) -> bool:
        """Whether there are gates at all."""
        return self.gates != "on"

    @property
    def trains(self) -> bool:
        """Whether clients train gates."""
        return self.gates == "learned"

    @property
    def single(self) -> bool:
        """Whether every weight has a gate of its own."""
        return self.learns and self.groups != UNITS


def final(groups: Groups, arrays: Arrays, theta: Floats, alive: Mask, settings: FedSparse) -> Arrays:
    """The model without noise, as plain weights; `theta`, `alive` (G,)."""
    if settings.final == "hard":
        values = (theta >= HALF).astype(np.float64)
    elif not settings.trains:
        values = theta
    else:
        values = hard_concrete.deterministic(hard_concrete.log_alpha_of(torch.from_numpy(theta))).numpy()
    return groups.switched(arrays, values * groups.closed(alive & (values > 0)))


def validated(config: Config) -> None:
    """Refuse what does not go together.

    Raises:
        SettingError: a codec or a robust rule that takes replies that are alike, or rounds that may end before the density.
    """
    replies.validated(config)
    settings = config.of(FedSparse)
    planned = f"the density falls to fedsparse.density = {settings.density:g} by a plan"
    refuse_early_end(config, planned if settings.learns and settings.density else "")


def fixed_rounds(config: Config) -> str:
    """Reason why the number of rounds cannot change once a run has started; empty if it can."""
    settings = config.of(FedSparse)
    if settings.gates == "on":
        return ""
    if settings.density and not settings.density_rounds:
        share = "a third" if settings.trains else "two thirds"
        return f"the density falls over {share} of the planned rounds (fedsparse.density-rounds = 0)"
    if not settings.settle_start:
        return "gates end after two thirds of the planned rounds (fedsparse.settle-start = 0)"
    return "" if settings.prune_start else "groups go for good after half of the planned rounds (fedsparse.prune-start = 0)"


COMPONENT = Method(
    "FedSparse",
    "sparse prior over clients' weights: gates drop groups of weights, only the others are sent (Louizos et al., 2021)",
    FedSparse,
    averages=False,
    validate=validated,
    check=replies.check,
    fixed_rounds=fixed_rounds,
    does=lambda run: {"weighs": run["fedsparse.weight-by"] == "examples"},
    refuses={
        "objective": "trains gates with the weights",
        "model.train": "drops groups of the weights that are trained",
        "privacy": "tells which groups a client wants, which no account covers",
    },
    layers="Linear and Conv2d",
)
