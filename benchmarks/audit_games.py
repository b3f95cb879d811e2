"""The mechanisms of an audit, played with a canary of many lengths, and the exact law of what each play releases.

A play is drawn under one of several laws, and its density under all of them is returned: the canary `scale` times as long, taking
part with probability `rate`. Scale 1 is the canary that the account prices, rate 0 its absence, -1 its opposite. The others are
there for importance sampling, see `audit_estimate`: under them what is rare is common.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from math import log, sqrt

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import logsumexp
from torch import Tensor, nn

from fedwarm.coding import rec
from fedwarm.coding.blocks import even
from fedwarm.coding.codec import RandomCodec
from fedwarm.coding.packing import unpack
from fedwarm.coding.poisson import PoissonCodec
from fedwarm.coding.replay import Sum
from fedwarm.coding.rotation import restore
from fedwarm.coding.rounded import RoundedCodec
from fedwarm.coding.streams import NONCE_BYTES, SECRET_BYTES, Key, Stream
from fedwarm.privacy.clipping import clip, noised
from fedwarm.privacy.events import RandomCoding
from fedwarm.privacy.mechanisms.dp_sgd.gradient import Mechanism, PrivateGradient
from fedwarm.privacy.randomness import Source, uniforms

Vector = NDArray[np.float64]
NUMBERS = 32  # of a block, or of a gradient
EXAMPLES = 20
GRID, STEP, HALF = 2**15, 0.01, 1000  # of a coordinate's law, 10 on each side
WIDTHS = 7  # of a sum's standard deviation on each side; what lies beyond is 1e-12


@dataclass(frozen=True)
class Law:
    """The canary `scale` times as long, there with probability `rate`."""

    scale: float
    rate: float = 1.0

    def mixed(self, there: Vector, absent: Vector | float = 0.0) -> Vector:
        """ln of the density, out of those where it is there and where it is not."""
        if self.rate == 1:
            return there
        if self.rate == 0:
            return np.broadcast_to(np.asarray(absent, np.float64), there.shape)
        return np.logaddexp(there + log(self.rate), absent + np.log1p(-self.rate))


Laws = Sequence[Law]


def draws(*numbers: int) -> Source:
    """Private bytes that repeat, so that the figures do."""
    return np.random.default_rng(numbers).bytes


# Random coding, as clients do it: the code words of real streams


def codec_of(bits: int, blocks: int, energy: float, rotation: str = "none") -> RandomCodec:
    """The codec, sigma = 1."""
    size = NUMBERS * blocks
    return RandomCodec(size, 1.0, sqrt(energy), even(size, blocks), rotation, bits=bits, nonce_bytes=NONCE_BYTES)


@lru_cache(maxsize=64)
def canary_of(codec: RandomCodec, rotation: Key) -> Vector:
    """The update (d,) whose blocks hold what `RandomCoding.worst` says, in the rotated order."""
    split = RandomCoding.of(codec.bits, codec.energy, codec.caps).worst()
    energies = np.concatenate([np.full(count, energy) for energy, count in split])
    v = np.zeros(codec.blocks.total)
    v[codec.blocks.starts[: energies.size]] = codec.sigma * np.sqrt(energies)
    return restore(v, codec.rotation, rotation, codec.size)


def words_of(codec: RandomCodec, law: Law, stream: Stream, source: Source) -> bytes:
    """What a client sends: the canary through `encode`, or the words of nobody."""
    if law.scale == 0 or uniforms(1, source)[0] >= law.rate:
        return codec.absent(source)
    longer = replace(codec, clip=abs(law.scale) * codec.clip)  # so that what is longer is not clipped to the same
    return longer.encode(law.scale * canary_of(codec, stream.rotation()), stream, source)


def log_laws(codec: RandomCodec, laws: Laws, words: bytes, stream: Stream) -> Vector:
    """ln of the probability of code words under each law, given the candidates, above that of uniform indices."""
    own = replace(stream, nonce=words[: codec.nonce_bytes])
    found = unpack(words[codec.nonce_bytes :], len(codec.blocks), codec.bits)
    v, starts = codec.prepare(canary_of(codec, stream.rotation()), own), codec.blocks.starts
    total, scales = np.zeros(len(laws)), np.array([law.scale for law in laws])
    for j in np.flatnonzero(codec.blocks.squares(v) > 1e-12):
        weights = rec.log_weights(own.key(int(j)), v[starts[j] : starts[j + 1]], codec.bits)
        above = scales[:, None] * (weights - weights[found[j]])
        total -= np.log(np.exp(above).mean(axis=1))
    return np.array([law.mixed(one) for law, one in zip(laws, total, strict=True)])


def play_coding(codec: RandomCodec, laws: Laws, runs: int, times: int, seed: int, used: RandomCodec | None = None) -> Vector:
    """Logs (runs, laws), run i under law i modulo their number: `times` messages of one client each.

    The laws are those of `codec`; clients code with `used`, where that is another one.
    """
    used = used or codec

    def one(i: int, time: int) -> Vector:
        stream = Stream(seed, time + 1, i)
        words = words_of(used, laws[i % len(laws)], stream, draws(seed, i, time))
        return log_laws(codec, laws, words, stream)

    return np.array([np.sum([one(i, time) for time in range(times)], axis=0) for i in range(runs)])


def play_exact(codec: PoissonCodec, laws: Laws, runs: int, seed: int) -> Vector:
    """Logs (runs, laws): what is decoded of one client's message, with streams that nobody else can draw."""
    canary = np.full(codec.size, codec.clip * codec.size**-0.5)
    longer = {law.scale: replace(codec, clip=max(abs(law.scale), 1.0) * codec.clip) for law in laws}

    def one(i: int) -> float:
        stream, scale = Stream(seed, 1, i, secret=b"s" * SECRET_BYTES, common=b"c" * SECRET_BYTES), laws[i % len(laws)].scale
        words = longer[scale].encode(scale * canary, stream, draws(seed, i))
        along = codec.prepare(canary, stream)
        return float(longer[scale].candidate(words, stream) @ along / (along @ along))

    return log_normals(np.array([one(i) for i in range(runs)]), codec.energy**-0.5, laws)


def play_added(codec: RoundedCodec, slots: int, laws: Laws, runs: int, rounds: int, seed: int) -> Vector:
    """Logs (runs, laws): sums of rounded updates, of which one is the canary's, with the noise that the server adds.

    All its numbers have one magnitude, which rounding meets exactly, so the law of the sum is known.
    """
    ones = np.full(codec.size, codec.size**-0.5)

    def one(i: int, number: int) -> float:
        law, source = laws[i % len(laws)], draws(seed, i, number)
        longer = replace(codec, clip=max(abs(law.scale), 1e-9) * codec.clip)  # so that what is longer is not clipped to the same
        total, stream = Sum(longer, seed, number), Stream(seed, number, 0)
        there = uniforms(1, source)[0] < law.rate
        total.add(0, longer.encode(law.scale * codec.clip * ones, stream, source) if there else longer.absent(source))
        total.add(1, longer.encode(0 * ones, stream, source))
        total.add_noise(slots, source)
        return float(total.mean(1) @ ones) / codec.clip

    x = np.array([[one(i, number) for number in range(rounds)] for i in range(runs)])
    return np.asarray(log_normals(x, (slots / codec.energy) ** 0.5, laws).sum(axis=1))


# Random coding with candidates drawn here: of many blocks, and of one where what is rare is a matter of candidates, too


def play_drawn_coding(bits: int, norm: float, blocks: int, laws: Laws, runs: int, seed: int) -> Vector:
    """Logs (runs, laws) of code words of so many blocks with ||v|| = norm sigma."""
    rng, scales, total = np.random.default_rng(seed), np.array([law.scale for law in laws]), np.zeros((runs, len(laws)))
    drawn = np.resize(scales, runs)[:, None]
    for _ in range(blocks):
        t = norm * rng.standard_normal((runs, 1 << bits))
        chosen = np.take_along_axis(t, (drawn * t + rng.gumbel(size=t.shape)).argmax(axis=1)[:, None], axis=1)
        for i, scale in enumerate(scales):
            total[:, i] -= np.log(np.exp(scale * (t - chosen)).mean(axis=1))
    return total


def play_candidates(bits: int, norm: float, tilts: Sequence[tuple[float, float]], runs: int, seed: int) -> Vector:
    """Logs (runs, 2 + tilts) of one block with ||v|| = norm sigma.

    A law of `tilts` (a, b) chooses at random; its candidate's coordinate is N(a, 1), not N(0, 1), and that of one other N(b, 1).
    """
    rng, count = np.random.default_rng(seed), 1 << bits
    rows, law = np.arange(runs), np.arange(runs) % (2 + len(tilts))
    t = rng.standard_normal((runs, count))
    for i, moved in enumerate(tilts, 2):
        t[law == i, :2] += moved
    k = np.where(law == 0, (norm * t + rng.gumbel(size=t.shape)).argmax(axis=1), 0)
    t[rows, k], t[:, 0] = t[:, 0].copy(), t[rows, k].copy()  # the chosen one stands first

    def tilted(chosen: float, other: float) -> Vector:
        rest = logsumexp(other * t[:, 1:] - other**2 / 2, axis=1) - log(count - 1) if other else 0.0
        return np.asarray(chosen * t[:, 0] - chosen**2 / 2 + rest)

    present = norm * t[:, 0] - logsumexp(norm * t, axis=1) + bits * log(2)
    return np.column_stack([present, np.zeros(runs), *(tilted(*moved) for moved in tilts)])


# Noise: the Gaussian mechanism of an update, and DP-SGD's steps


def log_normals(x: Vector, spread: float, laws: Laws) -> Vector:
    """Logs (.., laws) of x ~ N(scale, spread^2) with chance `rate`, else N(0, spread^2), above the latter."""
    return np.stack([law.mixed((law.scale * x - law.scale**2 / 2) / spread**2) for law in laws], axis=-1)


def play_gaussian(energy: float, laws: Laws, runs: int, times: int, seed: int) -> Vector:
    """Logs (runs, laws): an update of norm C, clipped and with noise, `times` times."""
    canary = np.full(NUMBERS, NUMBERS**-0.5)

    def one(i: int, time: int) -> float:
        length = laws[i % len(laws)].scale
        released = noised(clip(length * canary, max(abs(length), 1e-9)), energy**-0.5, draws(seed, i, time))
        return float(released @ canary)

    x = np.array([[one(i, time) for time in range(times)] for i in range(runs)])
    return np.asarray(log_normals(x, energy**-0.5, laws).sum(axis=1))


def play_steps(noise: float, laws: Laws, runs: int, steps: int, seed: int) -> Vector:
    """Logs (runs, laws): gradients of `steps` steps of DP-SGD, one example's of norm C, those of the others zero.

    A rate must be a whole number of `EXAMPLES`.
    """
    canary = torch.full((NUMBERS,), NUMBERS**-0.5)
    module = _Weights()

    def gradient(law: Law, source: Source) -> tuple[Mechanism, PrivateGradient]:
        longer = max(abs(law.scale), 1e-9)
        mechanism = Mechanism(longer, noise / longer, source=source)
        found = mechanism.gradient(module, torch.optim.SGD(module.parameters(), 0.1), dict(module.named_parameters()), 1.0)
        return mechanism, found

    def one(i: int) -> list[float]:
        law = laws[i % len(laws)]
        mechanism, step = gradient(law, draws(seed, i))
        examples, batch = torch.zeros(EXAMPLES, NUMBERS), round(law.rate * EXAMPLES)
        examples[0] = law.scale * canary
        out = []
        for _ in range(steps):
            step(_product, (examples[mechanism.rows(EXAMPLES, batch)] if batch else examples[:0],))
            assert module.weight.grad is not None
            out.append(float(module.weight.grad @ canary))
        return out

    x = np.array([one(i) for i in range(runs)])
    return np.asarray(log_normals(x, noise, laws).sum(axis=1))


def play_drawn_steps(noise: float, laws: Laws, runs: int, steps: int, seed: int) -> Vector:
    """As `play_steps`, out of drawn normals alone: for many steps."""
    rng, total = np.random.default_rng(seed), np.zeros((runs, len(laws)))
    for i, law in enumerate(laws):
        shape = (len(total[i :: len(laws)]), steps)
        x = law.scale * (rng.random(shape) < law.rate) + noise * rng.standard_normal(shape)
        total[i :: len(laws)] = log_normals(x, noise, laws).sum(axis=1)
    return total


class _Weights(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(NUMBERS))


def _product(weights: dict[str, Tensor], example: Tensor) -> Tensor:
    """A loss whose gradient is the example."""
    return (weights["weight"] * example).sum()


# Sums of many vectors, as central views release them: the exact law along the victim's update, by quadrature and FFT


def log_ratio(t: Vector, bits: int, norm: float) -> Vector:
    """ln of what the chosen candidate's coordinate t along the update is likelier than under N(0, 1).

    E[K e^{ct} / (e^{ct} + W)] = K int_0^inf e^{-x} E[exp(-x e^{c(s - t)})]^{K - 1} dx, W the weights of the K - 1 others.
    """
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    x = np.exp(np.linspace(-40.0, 6.0, 1201))
    inner = [np.exp(-x[:, None] * np.exp(norm * (nodes - one))) @ (weights / weights.sum()) for one in t]
    within = x * np.exp(-x) * np.array(inner) ** (2.0**bits - 1)
    return np.asarray(bits * log(2) + np.log(log(x[1] / x[0]) * within.sum(axis=1)))


@lru_cache(maxsize=8)
def sums_of(bits: int, norm: float, vectors: int) -> tuple[Vector, Vector, Vector]:
    """(s, present, absent): the law of the sum of so many coordinates, one of which is the victim's, on a grid about its middle.

    The others are all aligned with it and as long as a block may be, where their noise is the least.
    """
    t = STEP * np.arange(-HALF, HALF)
    chosen = np.exp(np.interp(t, t[::20], log_ratio(t[::20], bits, norm)) - t**2 / 2)
    waves = [np.fft.rfft(one / one.sum(), GRID) for one in (chosen, np.exp(-(t**2) / 2))]
    middle = round((vectors - 1) * float(t @ chosen) / chosen.sum() / STEP)
    reach = round(WIDTHS * sqrt(vectors) / STEP)
    near = np.arange(middle - reach, middle + reach)
    sums = [np.fft.irfft(one * waves[0] ** (vectors - 1), GRID)[(near + HALF * vectors) % GRID] for one in waves]
    present, absent = (np.maximum(one, 1e-300) for one in sums)
    return STEP * (near - middle), present / present.sum(), absent / absent.sum()


def play_sums(bits: int, norm: float, vectors: int, laws: Laws, runs: int, rounds: int, seed: int) -> Vector:
    """Logs (runs, laws): `rounds` sums; a scale beyond 0 and 1 tilts the sum as a victim so many times as long would."""
    s, present, absent = sums_of(bits, norm, vectors)
    spread = float(s**2 @ absent) - float(s @ absent) ** 2
    total, rng = np.zeros((runs, len(laws))), np.random.default_rng(seed)
    tilted = [present if law.scale == 1 else absent * np.exp(law.scale * norm * s / spread) for law in laws]
    there = [np.log(one / one.sum()) - np.log(absent) for one in tilted]
    logs = np.stack([law.mixed(one) for law, one in zip(laws, there, strict=True)], axis=-1)
    for i in range(len(laws)):
        ends = np.cumsum(absent * np.exp(logs[:, i]))
        drawn = np.searchsorted(ends, rng.random((len(total[i :: len(laws)]), rounds)) * ends[-1])
        total[i :: len(laws)] = logs[drawn].sum(axis=1)
    return total
