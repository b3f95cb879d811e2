"""An audit of the privacy account: how well a canary client is told from its absence, against what the account claims.

    python benchmarks/dp_rec_audit.py [--runs 20000] [--quick] [--broken clip|sigma|seeded] [--out FILE]

Each run is the mechanism itself: a canary update is clipped, coded with shared candidates and packed, or noised. The adversary
gets the bytes and knows the seeds, the canary and the mechanism, so its best statistic (Neyman, Pearson) is the log-likelihood
ratio L: the sum of ln pi_k(present) - ln pi_k(absent) over blocks and participations. The canary is the one that costs most: norm
C, in as few blocks as their caps allow. A run with it and one without share their candidates; runs of one kind are independent.
Half of the runs choose a threshold and a direction, the other half count how often each kind passes it; with Clopper-Pearson
limits p of the alarms and q of the false ones, epsilon >= ln((p - delta) / q) holds with the stated confidence, for each setting.
The audit fails, with exit code 1, where that is above the account's epsilon. Ten thousand runs that count can show at most 7.9.

`--broken` makes the account wrong, and the audit must fail: `clip`, the client does not clip and the canary is 4 C long; `sigma`,
the account takes the noise to be three times as large as it is; `seeded`, the adversary knows the bytes behind the choice.
Private draws are seeded here, so that the figures repeat; in `seeded` alone the adversary makes use of it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from math import log, log1p
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp
from scipy.stats import beta

from fedwarm.coding import rec
from fedwarm.coding.blocks import even
from fedwarm.coding.codec import RandomCodec
from fedwarm.coding.packing import unpack
from fedwarm.coding.rotation import restore
from fedwarm.coding.streams import Stream
from fedwarm.privacy.accountant import Accountant
from fedwarm.privacy.clipping import clip, noised
from fedwarm.privacy.events import Event, Gaussian, RandomCoding, Sampled
from fedwarm.privacy.randomness import Source, uniforms

Vector = NDArray[np.float64]
Counts = NDArray[np.int64]
Game = Callable[[int], Vector]
BROKEN = ("clip", "sigma", "seeded")
NUMBERS = 4
THRESHOLDS = 400


@dataclass(frozen=True)
class Setting:
    """One mechanism to audit.

    Attributes:
        name: what it is there for.
        bits: b; 0: the Gaussian mechanism.
        blocks: B, of NUMBERS numbers each.
        energy: X = C^2 / sigma^2 of one participation.
        times: participations of the canary.
        delta: where epsilon is stated.
        adjacency: `zero_out`, or `replacement`, by the opposite update.
        rate: the chance that the canary takes part, unseen; else its slot holds code words of nobody.
        rotation: of the codec.
    """

    name: str
    bits: int
    blocks: int
    energy: float
    times: int = 1
    delta: float = 1e-2
    adjacency: str = "zero_out"
    rate: float = 1.0
    rotation: str = "none"


SETTINGS = (
    Setting("one block at the rule's edge", 7, 1, 1.0, delta=1e-5),
    Setting("few bits, outside the rule", 2, 1, 1.0, delta=1e-5),
    Setting("blocks behind a rotation", 4, 4, 1.0, rotation="hadamard"),
    Setting("many participations", 4, 2, 0.125, times=4),
    Setting("two full blocks", 6, 2, 2.0, delta=1e-3),
    Setting("replacement", 4, 1, 0.25, adjacency="replacement"),
    Setting("sampled, sums padded", 5, 1, 1.0, times=4, rate=0.25),
    Setting("Gaussian, one round", 0, 1, 1.0, delta=1e-5),
    Setting("Gaussian, four rounds", 0, 1, 0.25, times=4),
)


@dataclass(frozen=True)
class Row:
    """One line of the report; `runs` of each kind, half of them to choose the test."""

    setting: Setting
    runs: int
    epsilon: float
    lower: float
    event: str
    alarms: int
    false_alarms: int

    @property
    def holds(self) -> bool:
        return self.lower <= self.epsilon


# The mechanism, and the account of it


def codec_of(setting: Setting) -> RandomCodec:
    """The codec, sigma = 1."""
    size = NUMBERS * setting.blocks
    return RandomCodec(size, 1.0, setting.energy**0.5, even(size, setting.blocks), setting.rotation, bits=setting.bits)


def event_of(setting: Setting) -> Event:
    """What one participation releases."""
    if not setting.bits:
        return Gaussian(setting.energy)
    event = RandomCoding.of(setting.bits, setting.energy, codec_of(setting).caps)
    return Sampled(event, setting.rate) if setting.rate < 1 else event


def claimed(setting: Setting) -> float:
    """The account's epsilon."""
    account = Accountant(setting.delta, setting.adjacency)
    account.spend(event_of(setting), times=setting.times)
    return account.epsilon()


def canary_of(codec: RandomCodec, stream: Stream) -> Vector:
    """The update (d,) whose blocks hold what `RandomCoding.worst` says, in the rotated order."""
    split = RandomCoding.of(codec.bits, codec.energy, codec.caps).worst()
    energies = np.concatenate([np.full(count, energy) for energy, count in split])
    v = np.zeros(codec.blocks.total)
    v[codec.blocks.starts[: energies.size]] = codec.sigma * np.sqrt(energies)
    return restore(v, codec.rotation, stream.rotation(), codec.size)


# The game: one run in which the canary is present, one in which it is absent; the adversary's statistic of each


def log_likelihood(codec: RandomCodec, update: Vector, words: list[bytes], stream: Stream) -> Vector:
    """ln of the probability of each code word, given the update and the candidates."""
    if not update.any():
        return np.full(len(words), -codec.words_bits * log(2))
    v, starts = codec.prepare(update, stream), codec.blocks.starts
    found = np.array([unpack(each, len(codec.blocks), codec.bits) for each in words])
    total = np.zeros(len(words))
    for j in range(len(codec.blocks)):
        part = v[starts[j] : starts[j + 1]]
        if part.any():
            weights = rec.log_weights(stream.key(j), part, codec.bits)
            total += weights[found[:, j]] - logsumexp(weights)
        else:
            total -= codec.bits * log(2)
    return total


def draws(*numbers: int) -> Source:
    """Bytes that nobody knows, unless the adversary repeats them."""
    return np.random.default_rng(numbers).bytes


def coding_game(setting: Setting, codec: RandomCodec, seed: int, known: bool) -> Game:
    """Random coding; `known`: the adversary repeats the client's draws, and asks if the canary gives these bytes."""

    def turn(number: int, time: int) -> Vector:
        stream = Stream(seed, time + 1, number)
        canary = canary_of(codec, stream)
        other = -canary if setting.adjacency == "replacement" else np.zeros(codec.size)
        private = [draws(seed, number, time, side) for side in range(2)]
        if setting.rate == 1:
            words = [codec.encode(update, stream, source) for update, source in zip((canary, other), private, strict=True)]
        else:
            there = uniforms(1, draws(seed, number, time, 2))[0] < setting.rate
            words = [codec.encode(canary, stream, private[0]) if there else codec.absent(private[0]), codec.absent(private[1])]
        if known:
            return np.array([w == codec.encode(canary, stream, draws(seed, number, time, i)) for i, w in enumerate(words)], float)
        ratio = log_likelihood(codec, canary, words, stream) - log_likelihood(codec, other, words, stream)
        return np.logaddexp(ratio + log(setting.rate), log1p(-setting.rate)) if setting.rate < 1 else ratio

    return lambda number: np.sum([turn(number, time) for time in range(setting.times)], axis=0)


def gaussian_game(setting: Setting, codec: RandomCodec, seed: int, known: bool) -> Game:
    """The Gaussian mechanism at the codec's clip and sigma, a release a participation."""
    canary = np.full(codec.size, codec.clip / codec.size**0.5)

    def statistic(update: Vector, *numbers: int) -> float:
        released = noised(clip(update, codec.clip), codec.sigma, draws(seed, *numbers))
        if known:
            return float(np.allclose(released, noised(canary, codec.sigma, draws(seed, *numbers))))
        return float((released @ canary - canary @ canary / 2) / codec.sigma**2)

    def play(number: int) -> Vector:
        return np.array(
            [sum(statistic(u, number, t, i) for t in range(setting.times)) for i, u in enumerate((canary, 0 * canary))]
        )

    return play


def game_of(setting: Setting, seed: int, broken: str | None) -> Game:
    """The game as it is really played, whatever the account believes."""
    codec = codec_of(setting if setting.bits else replace(setting, bits=1))
    if broken == "clip":
        codec = replace(codec, clip=4 * codec.clip)
    make = coding_game if setting.bits else gaussian_game
    return make(setting, codec, seed, broken == "seeded")


# From alarms to epsilon


def least_epsilon(alarms: Counts, false_alarms: Counts, runs: int, delta: float, confidence: float) -> Vector:
    """ln((p - delta) / q) by one-sided Clopper-Pearson limits p of alarms and q of false alarms; 0 where they say nothing."""
    tail = (1 - confidence) / 2
    p = np.where(alarms > 0, beta.ppf(tail, np.maximum(alarms, 1), runs - alarms + 1), 0.0)
    q = np.where(false_alarms < runs, beta.ppf(1 - tail, false_alarms + 1, np.maximum(runs - false_alarms, 1)), 1.0)
    return np.asarray(np.log(np.maximum((p - delta) / q, 1.0)))


def passing(scores: Vector, thresholds: Vector) -> Counts:
    """How many scores are at least each threshold."""
    return np.asarray(scores.size - np.searchsorted(np.sort(scores), thresholds))


def lower_bound(present: Vector, absent: Vector, delta: float, confidence: float) -> tuple[float, str, int, int]:
    """(epsilon at least, the event, alarms, false alarms): a test chosen on the even runs, counted on the odd ones."""
    best = (-1.0, 1.0, np.inf)
    for sign, seen, unseen in ((1.0, present[::2], absent[::2]), (-1.0, -absent[::2], -present[::2])):
        thresholds = np.unique(np.quantile(np.concatenate([seen, unseen]), np.linspace(0, 1, THRESHOLDS)))
        wrong = np.minimum(passing(unseen, thresholds) + 1, unseen.size)  # the luckiest threshold is not the best one
        found = least_epsilon(passing(seen, thresholds), wrong, seen.size, delta, confidence)
        best = max(best, (float(found.max()), sign, float(thresholds[found.argmax()])))
    _, sign, threshold = best
    seen, unseen = (present[1::2], absent[1::2]) if sign > 0 else (-absent[1::2], -present[1::2])
    alarms, wrong = (passing(scores, np.array([threshold])) for scores in (seen, unseen))
    said = f"L >= {threshold:.2f}, present" if sign > 0 else f"L <= {0.0 - threshold:.2f}, absent"
    return float(least_epsilon(alarms, wrong, seen.size, delta, confidence)[0]), said, int(alarms[0]), int(wrong[0])


def audit(setting: Setting, runs: int, seed: int, confidence: float, broken: str | None = None) -> Row:
    """Play, and compare; `runs` with the canary and as many without."""
    game = game_of(setting, seed, broken)
    said = replace(setting, energy=setting.energy / 9) if broken == "sigma" else setting
    scores = np.array([game(number) for number in range(runs)])
    found = lower_bound(scores[:, 0], scores[:, 1], setting.delta, confidence)
    return Row(setting, runs, claimed(said), *found)


def table(rows: list[Row]) -> str:
    """The figures as markdown."""
    lines = [
        "| setting | b | B | c = sqrt(X / B) | times | delta | lower bound | account | event | alarms, false alarms | |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        s = row.setting
        cells = [s.name, str(s.bits or "-"), str(s.blocks), f"{(s.energy / s.blocks) ** 0.5:.3g}", str(s.times), f"{s.delta:g}"]
        cells += [f"{row.lower:.2f}", f"{row.epsilon:.2f}", row.event, f"{row.alarms}, {row.false_alarms} of {row.runs // 2}"]
        lines.append("| " + " | ".join([*cells, "below" if row.holds else "**ABOVE**"]) + " |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20_000, help="runs with the canary, and as many without")
    parser.add_argument("--quick", action="store_true", help="a twentieth of the runs")
    parser.add_argument("--confidence", type=float, default=0.95, help="of each setting's lower bound")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--broken", nargs="?", const="clip", choices=BROKEN, help="make the account wrong; clip if none is named")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    given = parser.parse_args(argv)
    runs = given.runs // 20 if given.quick else given.runs
    if runs < 2 or not 0 < given.confidence < 1:
        parser.error(f"--runs {runs} --confidence {given.confidence}: needed are at least 2 runs and a confidence in (0, 1)")
    rows = [audit(s, runs, given.seed + i, given.confidence, given.broken) for i, s in enumerate(SETTINGS)]
    print(table(rows))
    above = sum(not row.holds for row in rows)
    state = f"the account broken ({given.broken})" if given.broken else "the account as it is"
    print(f"\n{state}, {given.confidence:.0%} confidence each: {above} of {len(rows)} lower bounds above the account")
    if given.out:
        found = [{**asdict(row), "holds": row.holds} for row in rows]
        given.out.write_text(json.dumps({"broken": given.broken, "confidence": given.confidence, "rows": found}, indent=2) + "\n")
    return 1 if above else 0


if __name__ == "__main__":
    sys.exit(main())
