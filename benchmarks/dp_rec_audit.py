"""An audit of the privacy accounts: the least delta that a mechanism really has at the epsilon that its account claims.

    python benchmarks/dp_rec_audit.py [--share 1.0] [--wrong sigma|epsilon] [--only NAME] [--out FILE]

Each setting is played with the pair of neighbours that costs most: a canary of norm C in as few blocks as their caps allow, and
its absence (for replacement: its opposite). The adversary has what leaves, the seeds where they are public, the canary and the
mechanism, so the likelihood ratio of what it sees is exact, and with it the hockey-stick divergence in both directions (see
`audit_estimate`). Code words come from the codec itself, noise from the mechanisms themselves, sums of central views from their
exact law by FFT.

The audit fails, with exit code 1, where the audited delta may be above the claimed one (upper 99 % limit), or where it is not
surely above it at a smaller epsilon: nine tenths of the claim, or less where the bound is known to be loose. So an account that
is wrong by ten percent is found out. That takes a small delta: the account is of Renyi divergences, whose conversion to epsilon
alone gives away 17 % for a Gaussian mechanism at delta = 1e-2, 12 at 1e-3, 8 at 1e-5 and 5 at 1e-8, which is taken here.
Counting would take billions of runs for it, importance sampling takes some thousands.

`--wrong` makes the accounts wrong by a tenth, and the audit must fail: `sigma`, the mechanism has a tenth less noise than its
account takes it to have; `epsilon`, the account claims a tenth less. Private draws are seeded here, so that the figures repeat.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from time import monotonic

import numpy as np
from audit_estimate import Estimate, Sample
from audit_games import (
    NUMBERS,
    Law,
    Vector,
    codec_of,
    play_added,
    play_candidates,
    play_coding,
    play_drawn_coding,
    play_drawn_steps,
    play_exact,
    play_gaussian,
    play_steps,
    play_sums,
)

from fedwarm.coding.blocks import even
from fedwarm.coding.poisson import PoissonCodec
from fedwarm.coding.rounded import RoundedCodec
from fedwarm.privacy.accountant import Accountant
from fedwarm.privacy.events import AtServer, Event, Gaussian, RandomCoding, Sampled, Simulated
from fedwarm.privacy.mechanisms.dp_sgd.account import Steps, example_epsilon
from fedwarm.privacy.views import Terms

DELTA = 1e-8
LESS = 0.9  # of the noise, or of epsilon
ALARM = 4.0
TILTS = [
    (0.0, 2.0), (0.0, 4.0), (-2.0, 0.0), (-4.0, 0.0), (-2.0, 2.0), (-1.0, 4.0), (-4.0, 2.0), (-3.0, 4.0), (-2.0, 5.5),
    (2.5, 0.0), (4.5, 0.0), (6.0, 0.0), (4.5, -2.0),
]  # fmt: skip


@dataclass(frozen=True)
class Setting:
    """A mechanism and what its account claims.

    Attributes:
        name: what it is there for.
        claimed: epsilon at `delta`.
        play: logs (runs, laws) of so many runs, by a seed and a part of the noise that the account takes it to have.
        runs: as many as the table has.
        share: of the claimed epsilon, at which the audit must see that it is too little.
        delta: where epsilon is stated.
    """

    name: str
    claimed: float
    play: Callable[[int, int, float], Vector]
    runs: int
    share: float = 0.9
    delta: float = DELTA


@dataclass(frozen=True)
class Row:
    """What came of a setting; `off`: the mean weights' distance from 1, in standard errors."""

    name: str
    delta: float
    runs: int
    epsilon: float
    at: Estimate
    share: float
    below: Estimate
    true: float
    off: float
    seconds: float

    @property
    def holds(self) -> bool:
        return self.at.high <= self.delta

    @property
    def sees(self) -> bool:
        return self.below.low > self.delta

    @property
    def fine(self) -> bool:
        return self.holds and self.sees and self.off < ALARM


# Settings, by mechanism


def pair(adjacency: str) -> tuple[Law, Law]:
    """The two neighbours."""
    return Law(1.0), Law(-1.0) if adjacency == "replacement" else Law(0.0)


def tails(energy: float, epsilon: float, rate: float = 1.0) -> list[Law]:
    """Where the loss of a Gaussian mechanism of that energy comes to epsilon, in both directions, and half way there."""
    ends = (rate * (0.5 + epsilon / energy), rate * (0.5 - epsilon / energy))
    return [Law(part * end) for part in (1.0, 0.6) for end in ends]


def spent(event: Event, times: int = 1, adjacency: str = "zero_out") -> float:
    """The account's epsilon."""
    account = Accountant(DELTA, adjacency)
    account.spend(event, times=times)
    return account.epsilon()


def coding(
    name: str, bits: int, blocks: int, energy: float, times: int = 1, adjacency: str = "zero_out", rotation: str = "none"
) -> Setting:
    """Code words, seeds public: the local view."""
    codec = codec_of(bits, blocks, energy, rotation)
    epsilon = spent(RandomCoding.of(bits, codec.energy, codec.caps), times, adjacency)
    opposite = adjacency == "replacement"
    more = [Law(k * end) for k in (1.0, 0.6) for end in (epsilon / (2 * energy * times), -epsilon / (2 * energy * times))]
    laws = [*pair(adjacency), *(more if opposite else tails(energy * times, epsilon))]

    def play(runs: int, seed: int, noise: float) -> Vector:
        return play_coding(codec_of(bits, blocks, energy / noise**2, rotation), laws, runs, times, seed)

    return Setting(name, epsilon, play, 3000)


def sampled_coding(name: str, bits: int, blocks: int, energy: float, times: int, rate: float, share: float) -> Setting:
    """Code words of a client of whom nobody knows whether it takes part."""
    codec = codec_of(bits, blocks, energy)
    laws = [Law(1.0, rate), Law(0.0, 0.0), Law(2.0), Law(3.0), Law(4.5), Law(4.5, 0.5), Law(-2.0)]

    def play(runs: int, seed: int, noise: float) -> Vector:
        return play_coding(codec_of(bits, blocks, energy / noise**2), laws, runs, times, seed)

    epsilon = spent(Sampled(RandomCoding.of(bits, codec.energy, codec.caps), rate), times)
    return Setting(name, epsilon, play, 3000, share)


def drawn_coding(name: str, bits: int, norm: float, blocks: int) -> Setting:
    """Code words of many blocks, with candidates drawn in bulk."""
    energy = blocks * norm**2
    epsilon = spent(RandomCoding.of(bits, energy, np.full(blocks, norm**2)))
    laws = [*pair("zero_out"), *tails(energy, epsilon)]
    return Setting(name, epsilon, lambda runs, seed, noise: play_drawn_coding(bits, norm / noise, blocks, laws, runs, seed), 6000)


def exact(name: str, blocks: int, energy: float) -> Setting:
    """Exact code words in a central view of one client: the adversary has what is decoded."""
    terms, release, size = Terms("central_certified", DELTA, 1, 1, 1), Simulated(energy), NUMBERS * blocks
    epsilon = terms.epsilon(release)
    laws = [*pair("zero_out"), *tails(energy, epsilon)]

    def play(runs: int, seed: int, noise: float) -> Vector:
        codec = PoissonCodec(size, 1.0, energy**0.5 / noise, even(size, blocks), tolerance=terms.tolerance(release))
        return play_exact(codec, laws, runs, seed)

    return Setting(name, epsilon, play, 1200)


def added(name: str, bits: int, energy: float, clients: int, cohort: int, rounds: int) -> Setting:
    """Rounded updates, whose noise the server adds; the adversary has the sums."""
    terms = Terms("central_certified", DELTA, clients, cohort, rounds)
    epsilon, slots, rate = terms.epsilon(AtServer(energy)), terms.slots.count, terms.rate
    laws = [Law(1.0, rate), Law(0.0, 0.0), *tails(rounds * energy / slots, epsilon)]

    def play(runs: int, seed: int, noise: float) -> Vector:
        codec = RoundedCodec(NUMBERS, 1.0, energy**0.5 / noise, even(NUMBERS, 1), "none", bits=bits)
        return play_added(codec, slots, laws, runs, rounds, seed)

    return Setting(name, epsilon, play, 6000)


def candidates(name: str, bits: int, norm: float) -> Setting:
    """Code words of one block where the candidates themselves may be odd."""

    def play(runs: int, seed: int, noise: float) -> Vector:
        return play_candidates(bits, norm / noise, TILTS, runs, seed)

    return Setting(name, spent(RandomCoding.of(bits, norm**2, np.array([norm**2]))), play, 30_000)


def gaussian(name: str, energy: float, times: int) -> Setting:
    """Updates under noise."""
    epsilon = spent(Gaussian(energy), times)
    laws = [*pair("zero_out"), *tails(energy * times, epsilon)]
    return Setting(name, epsilon, lambda runs, seed, noise: play_gaussian(energy / noise**2, laws, runs, times, seed), 6000)


def steps(name: str, rate: float, noise: float, count: int, laws: Sequence[Law], drawn: bool = False) -> Setting:
    """DP-SGD; `drawn`: out of normals alone."""
    play, pair = play_drawn_steps if drawn else play_steps, (Law(1.0, rate), Law(0.0, 0.0))
    epsilon = example_epsilon([Steps(rate, noise, count)], DELTA)

    def played(runs: int, seed: int, part: float) -> Vector:
        return play(part * noise, [*pair, *laws], runs, count, seed)

    return Setting(name, epsilon, played, 12_000 if drawn else 2000)


def sums(name: str, view: str, bits: int, norm: float, clients: int, cohort: int, rounds: int, share: float = 0.9) -> Setting:
    """Sums of padded Poisson cohorts, seeds secret; of one block."""
    terms = Terms(view, DELTA, clients, cohort, rounds)
    epsilon, vectors, rate = terms.epsilon(RandomCoding.of(bits, norm**2, np.array([norm**2]))), terms.slots.count, terms.rate
    laws = [Law(1.0, rate), Law(0.0, 0.0), *tails(rounds * rate**2 * norm**2 / vectors, epsilon * share**0.5, rate)]

    def play(runs: int, seed: int, noise: float) -> Vector:
        return play_sums(bits, norm / noise, vectors, laws, runs, rounds, seed)

    return Setting(name, epsilon, play, 30_000, share)


SETTINGS: tuple[Callable[[], Setting], ...] = (
    partial(coding, "code words, one message", 6, 16, 2.0, rotation="hadamard"),
    partial(coding, "code words, four messages", 5, 4, 0.5, times=4),
    partial(coding, "replacement by the opposite", 6, 8, 0.25, times=2, adjacency="replacement"),
    partial(sampled_coding, "code words, sampled", 6, 8, 1.0, 2, 0.25, 0.8),
    partial(candidates, "one block at the rule's edge", 7, 1.0),
    partial(candidates, "few bits, outside the rule", 2, 1.0),
    partial(candidates, "single bits", 1, 1.0),
    partial(gaussian, "Gaussian, one round", 1.0, 1),
    partial(gaussian, "Gaussian, four rounds", 0.25, 4),
    partial(steps, "dp-sgd, one step", 0.5, 0.5, 1, [Law(2.0), Law(3.5), Law(5.5), Law(-2.0), Law(-4.0)]),
    partial(steps, "dp-sgd, four steps", 0.5, 0.8, 4, [Law(1.0), Law(2.0), Law(3.0), Law(-1.0), Law(-2.0)]),
    partial(
        steps, "dp-sgd, 1,000 steps", 0.1, 2.0, 1000, [Law(0.43), Law(0.3), Law(-0.33), Law(-0.2), Law(1.0, 0.4)], drawn=True
    ),
    partial(sums, "sums of 40, limit", "central_limit", 7, 1.0, 40, 40, 10),
    partial(sums, "sums, sampled, limit", "central_limit", 7, 0.5, 400, 40, 30),
    partial(sums, "sums of 40, certified", "central_certified", 7, 1.0, 40, 40, 10, share=0.6),
    partial(sums, "sums, sampled, certified", "central_certified", 7, 0.5, 400, 40, 30, share=0.75),
    partial(drawn_coding, "code words, large epsilon", 7, 0.5, 160),
    partial(exact, "exact code words", 128, 1.0),
    partial(added, "noise of the server, one round", 2, 10.0, 10, 10, 1),
    partial(added, "noise of the server, sampled", 4, 8.0, 40, 20, 4),
)


def audit(setting: Setting, runs: int, seed: int, wrong: str = "") -> Row:
    """Play, and compare with the claim."""
    begun = monotonic()
    epsilon = setting.claimed * (LESS if wrong == "epsilon" else 1.0)
    sample = Sample(setting.play(runs, seed, LESS if wrong == "sigma" else 1.0))
    at, below = sample.delta(epsilon), sample.delta(setting.share * epsilon)
    true, off = sample.epsilon(setting.delta), sample.off()
    return Row(setting.name, setting.delta, runs, epsilon, at, setting.share, below, true, off, monotonic() - begun)


def table(rows: Sequence[Row]) -> str:
    """The figures as markdown."""
    lines = [
        "| setting | runs | claimed epsilon | audited delta / delta at it | at a share of it | audited epsilon | weights | |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        state = "holds" if row.fine else "**off**" if row.off >= ALARM else "**above**" if not row.holds else "**not seen**"
        cells = [row.name, f"{row.runs:,}", f"{row.epsilon:.3f}", limits(row.at, row.delta)]
        cells += [f"{row.share:g}: {limits(row.below, row.delta)}", f"{row.true:.3f}", f"{row.off:.1f}", state]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def limits(found: Estimate, delta: float) -> str:
    """A delta with its limits, as multiples of the claimed one."""
    return " ".join([f"{found.value / delta:.3g}", f"({found.low / delta:.3g} to {found.high / delta:.3g})"])


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--share", type=float, default=1.0, help="of the runs that each setting has")
    parser.add_argument("--only", default="", help="settings whose name holds this")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--wrong", default="", choices=("sigma", "epsilon"), help="make the accounts wrong by a tenth")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    given = parser.parse_args(argv)
    chosen = [setting for make in SETTINGS if given.only in (setting := make()).name]
    if not chosen or not 0 < given.share <= 10:
        parser.error(f"--only {given.only!r} --share {given.share}: needed are a setting, and a share in (0, 10]")
    rows = [audit(s, max(100, round(given.share * s.runs)), given.seed + i, given.wrong) for i, s in enumerate(chosen)]
    print(table(rows))
    above = sum(not row.holds for row in rows)
    state = f"accounts that are wrong by a tenth ({given.wrong})" if given.wrong else "the accounts as they are"
    print(f"\n{state}: {above} of {len(rows)} may be passed, at 99 %; {sum(row.seconds for row in rows):.0f} s")
    if given.out:
        given.out.write_text(json.dumps({"wrong": given.wrong, "rows": [asdict(row) for row in rows]}, indent=2) + "\n")
    return 0 if all(row.fine for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
