"""Distributed mean estimation in few bits: the error of random coding beside the Gaussian mechanism's and a published coder's.

    python benchmarks/dp_rec_mean.py [--repetitions 3] [--most-bits 10] [--budgets 25,50,100,400] [--quick] [--out FILE]

The setting of Liu, Chen, Ozgur, Li, "Universal Exact Compression of Differentially Private Mechanisms", arXiv 2405.20782:
n = 500 clients hold vectors of d = 1,000 entries +-1/sqrt(d), the server wants their mean, delta = 1e-6, and epsilon is the
central one, of the sum of 500 noises. Their figures (PPR, alpha = 2) are copied, as recomputed for clients of norm 1 from the
authors' released formula and list of sigmas. Sigma of each epsilon is the one whose uncompressed error d sigma^2 / n is theirs;
fedwarm's account gives the listed epsilons for it.

The plan of a cell follows from its bits a client R and its epsilon: for each b up to `--most-bits`, B = floor(R / b) blocks whose
norm is at most fedwarm's c(b) = sqrt(2) ln K / sqrt(ln 1/delta) (without its cap at 1, which suits bits in plenty), so that
X = min(C^2 / sigma^2, B c^2): where the bits do not carry the listed epsilon, the noise is raised and a smaller epsilon reached.
Taken is the smallest b whose predicted error, (d - B + B var) / (X s^2 n) with the closed forms of the shrinkage s and of the
variance along a block, is within 2 % of the least. Updates run through the codec as in training: clip, rotation, blocks, shared
candidates, bytes, debiased sum. All of it takes about a quarter of an hour on one core, most in plans of 9 or 10 bits.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass
from math import log, sqrt
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedwarm.coding.blocks import even
from fedwarm.coding.codec import RandomCodec
from fedwarm.coding.replay import Sum
from fedwarm.coding.rotation import padded
from fedwarm.coding.shrinkage import parallel_variance, shrinkage
from fedwarm.coding.streams import Stream
from fedwarm.privacy.clipping import clip, noised
from fedwarm.privacy.events import Gaussian, RandomCoding
from fedwarm.privacy.views import Release, Terms

CLIENTS, SIZE, DELTA, TOLERANCE = 500, 1000, 1e-6, 1.02
EPSILONS = (0.548, 0.996, 1.48, 2.21, 4.03, 6.0)
UNCOMPRESSED = (0.2537, 0.0827, 0.0393, 0.0189, 0.0064, 0.0032)
PPR = {
    25: (0.2537, 0.0950, 0.0950, 0.0950, 0.0950, 0.0950),
    50: (0.2537, 0.0827, 0.0393, 0.0361, 0.0361, 0.0361),
    100: (0.2537, 0.0827, 0.0393, 0.0189, 0.0154, 0.0154),
    400: (0.2537, 0.0827, 0.0393, 0.0189, 0.0064, 0.0032),
}


@dataclass(frozen=True)
class Plan:
    """`blocks` indices of `bits` bits for an update with C^2 / sigma^2 = `energy`; C = 1."""

    bits: int
    blocks: int
    energy: float

    @property
    def norm(self) -> float:
        """c, a block's norm in units of sigma."""
        return sqrt(self.energy / self.blocks)

    @property
    def predicted(self) -> float:
        """The mean's squared error by the closed form."""
        along = parallel_variance(self.bits, self.norm)
        each = (SIZE - self.blocks + self.blocks * along) / (self.energy * shrinkage(self.bits, self.norm) ** 2)
        return each / CLIENTS

    def codec(self) -> RandomCodec:
        """The codec, rotated as by default."""
        blocks = even(padded(SIZE, "hadamard"), self.blocks)
        return RandomCodec(SIZE, self.energy**-0.5, 1.0, blocks, bits=self.bits)

    def release(self) -> RandomCoding:
        """What one client's bytes release."""
        return RandomCoding.of(self.bits, self.energy, self.codec().caps)


def energy_of(column: int) -> float:
    """X at a listed epsilon: the uncompressed error is d / (X n)."""
    return SIZE / (CLIENTS * UNCOMPRESSED[column])


def plan_of(budget: int, energy: float, most_bits: int) -> Plan:
    """The plan of a cell, as said above; nothing of the clients' data enters."""
    plans = []
    for bits in range(1, min(most_bits, budget) + 1):
        blocks = budget // bits
        most = blocks * 2 * (bits * log(2)) ** 2 / log(1 / DELTA)
        plans.append(Plan(bits, blocks, min(energy, most)))
    least = min(plan.predicted for plan in plans)
    return next(plan for plan in plans if plan.predicted <= TOLERANCE * least)


def epsilon(release: Release, view: str) -> float:
    """Epsilon of one release of each client, all of whom take part."""
    return Terms(view, DELTA, CLIENTS, CLIENTS, 1).epsilon(release)


# What is measured: the squared error of the mean, and a client's own over n, equal if errors are independent and centred


def vectors(seed: int, repetition: int) -> NDArray[np.float64]:
    """The clients' vectors (n, d), entries +-1/sqrt(d)."""
    draws = np.random.default_rng((seed, repetition))
    return np.asarray((2.0 * draws.integers(0, 2, (CLIENTS, SIZE)) - 1) / sqrt(SIZE))


def squared(x: NDArray[np.float64]) -> float:
    return float(np.square(x).sum())


def coded(plan: Plan, seed: int, repetition: int) -> tuple[float, float]:
    """(the mean's squared error, a client's over n, averaged)."""
    codec, private = plan.codec(), np.random.default_rng((seed, repetition, 1)).bytes
    whole, mine, data = Sum(codec, seed, repetition), 0.0, vectors(seed, repetition)
    for client, x in enumerate(data):
        stream = Stream(seed, repetition, client)
        words = codec.encode(x, stream, private)
        whole.add(client, words)
        mine += squared(codec.decode(words, stream) - x)
    return squared(whole.mean(CLIENTS) - data.mean(axis=0)), mine / CLIENTS**2


def gaussian(column: int, seed: int, repetition: int) -> tuple[float, float]:
    """The same of the uncompressed Gaussian mechanism."""
    private, data = np.random.default_rng((seed, repetition, 2, column)).bytes, vectors(seed, repetition)
    sent = np.array([noised(clip(x, 1.0), energy_of(column) ** -0.5, private) for x in data])
    return squared(sent.mean(axis=0) - data.mean(axis=0)), squared(sent - data) / CLIENTS**2


def summary(pairs: list[tuple[float, float]]) -> dict[str, float]:
    """Means and standard errors over repetitions."""
    found = np.array(pairs)
    (mse, mine), (se, mine_se) = found.mean(axis=0), found.std(axis=0, ddof=1) / sqrt(len(pairs))
    return {"mse": mse, "mse_se": se, "client_mse": mine, "client_mse_se": mine_se}


# The report


def main_table(found: dict[str, Any], budgets: list[int]) -> str:
    """The error by bits a client and epsilon."""
    lines = ["| bits a client | mechanism | " + " | ".join(f"eps {e:g}" for e in EPSILONS) + " |", "|---" * 8 + "|"]
    plain = [f"{c['mse']:.4f} ± {c['mse_se']:.4f}" for c in found["gaussian"]]
    lines.append("| 32,000 | Gaussian, measured | " + " | ".join(plain) + " |")
    for budget in budgets:
        cells = found["cells"][str(budget)]
        ours = [f"{c['mse']:.4f} ± {c['mse_se']:.4f}" + "↑" * c["raised"] for c in cells]
        lines.append(f"| {budget} | random coding, measured | " + " | ".join(ours) + " |")
        lines.append("| | its closed form, b to 16 | " + " | ".join(f"{c['predicted_16']:.4f}" for c in cells) + " |")
        if budget in PPR:
            marks = ["*" * (p > g) for p, g in zip(PPR[budget], UNCOMPRESSED, strict=True)]
            lines.append(
                "| | PPR, arXiv 2405.20782 | " + " | ".join(f"{p:.4f}{m}" for p, m in zip(PPR[budget], marks, strict=True)) + " |"
            )
    note = "↑ the noise was raised to what the bits carry, and epsilon is smaller than listed; * PPR, limited by its bits."
    return "\n".join([*lines, "", note])


def detail_table(found: dict[str, Any]) -> str:
    """Each distinct plan, with what is known of its privacy."""
    lines = [
        "| bits a client | B x b | sigma | c | shrinkage | mean's error | one client's / n | closed form | eps, central_limit "
        "(estimate) | eps, central_certified | eps, local |",
        "|---" * 11 + "|",
    ]
    for row in found["plans"]:
        cells = [f"{row['bits'] * row['blocks']}", f"{row['blocks']} x {row['bits']}", f"{row['energy'] ** -0.5:.4f}"]
        cells += [f"{row['norm']:.2f}", f"{row['shrinkage']:.3f}", f"{row['mse']:.4f} ± {row['mse_se']:.4f}"]
        cells += [f"{row['client_mse']:.5f} ± {row['client_mse_se']:.5f}", f"{row['predicted']:.5f}"]
        cells += [f"{row['central_limit']:.3f}", f"{row['certified']:.3f}", f"{row['local']:.1f}"]
        lines.append("| " + " | ".join(cells) + " |")
    for e, row in zip(EPSILONS, found["gaussian"], strict=True):
        cells = [
            "32,000",
            f"Gaussian, eps {e:g}",
            f"{row['energy'] ** -0.5:.4f}",
            "",
            "",
            f"{row['mse']:.4f} ± {row['mse_se']:.4f}",
        ]
        cells += [f"{row['client_mse']:.5f} ± {row['client_mse_se']:.5f}", f"{SIZE / row['energy'] / CLIENTS:.5f}"]
        lines.append("| " + " | ".join([*cells, "", f"{row['central']:.3f}", f"{row['local']:.1f}"]) + " |")
    return "\n".join(lines)


def row_of(plan: Plan, seed: int, repetitions: int) -> dict[str, Any]:
    """One plan: its settings, error and privacy."""
    print(f"{plan.blocks} blocks x {plan.bits} bits, sigma {plan.energy**-0.5:.4f}", file=sys.stderr, flush=True)
    return {
        **asdict(plan),
        "norm": plan.norm,
        "shrinkage": shrinkage(plan.bits, plan.norm),
        "predicted": plan.predicted,
        "central_limit": epsilon(plan.release(), "central_limit"),
        "certified": epsilon(plan.release(), "central_certified"),
        "local": epsilon(plan.release(), "local"),
        **summary([coded(plan, seed, i) for i in range(1, repetitions + 1)]),
    }


def measure(budgets: list[int], most_bits: int, repetitions: int, seed: int) -> dict[str, Any]:
    """Every cell; a plan that several cells share is measured once."""
    plain = []
    for column, energy in enumerate(map(energy_of, range(len(EPSILONS)))):
        private = {"central": epsilon(Gaussian(energy), "central_certified"), "local": epsilon(Gaussian(energy), "local")}
        pairs = [gaussian(column, seed, i) for i in range(1, repetitions + 1)]
        plain.append({"energy": energy, **private, **summary(pairs)})
    rows: dict[Plan, dict[str, Any]] = {}
    cells: dict[str, list[dict[str, Any]]] = {}
    for budget in budgets:
        cells[str(budget)] = []
        for column, epsilon_listed in enumerate(EPSILONS):
            plan = plan_of(budget, energy_of(column), most_bits)
            rows[plan] = rows.get(plan) or row_of(plan, seed, repetitions)
            best = plan_of(budget, energy_of(column), 16)
            extra = {"epsilon": epsilon_listed, "raised": plan.energy < energy_of(column), "predicted_16": best.predicted}
            cells[str(budget)].append({**rows[plan], **extra})
    return {"gaussian": plain, "cells": cells, "plans": list(rows.values())}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=3, help="fresh vectors, candidates and draws each time")
    parser.add_argument("--most-bits", type=int, default=10, help="most bits a block that a plan may take; each doubles the time")
    parser.add_argument("--budgets", default="25,50,100,400", help="bits a client, with commas")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="for a trial: 25 and 50 bits, at most 7 a block, two repetitions")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    given = parser.parse_args(argv)
    budgets = [25, 50] if given.quick else [int(b) for b in given.budgets.split(",")]
    if not (1 <= given.most_bits <= 16 and given.repetitions >= 2 and min(budgets) >= 1):
        parser.error("needed are 1 to 16 bits a block, at least two repetitions and budgets of at least one bit")
    repetitions, most = (2, 7) if given.quick else (given.repetitions, given.most_bits)
    found = measure(budgets, most, repetitions, given.seed)
    print(f"squared error of the mean, n = {CLIENTS}, d = {SIZE}, delta = {DELTA:g}, ± standard error over {repetitions}\n")
    print(main_table(found, budgets) + "\n\n" + detail_table(found))
    if given.out:
        given.out.write_text(json.dumps(found, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
