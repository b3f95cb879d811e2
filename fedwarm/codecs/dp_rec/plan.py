"""DP-REC: Triastcyn, Reisser, Louizos, "DP-REC: Private & Communication-Efficient Federated Learning", arXiv 2111.05454 (2021).

A client's clipped update is sent as a few indices of shared random candidates, and the randomness of the choice is what makes it
private. Here are the settings and what follows from them: the scale of the noise, the blocks, the codec of both sides, what a
message releases, and the server's step. The paper's public text states no values; all of them are choices of ours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, log, sqrt

import numpy as np
import torch
from numpy.typing import NDArray

from fedwarm.coding.blocks import RULES, Blocks, even, fixed_size, kl_adaptive, per_tensor
from fedwarm.coding.codec import MAGNITUDES, RandomCodec
from fedwarm.coding.layout import Layout
from fedwarm.coding.packing import MOST_BITS
from fedwarm.coding.rotation import padded
from fedwarm.coding.streams import Stream
from fedwarm.core.arrays import Arrays
from fedwarm.core.seeds import derive, numpy_generator
from fedwarm.privacy.clipping import clip, noised
from fedwarm.privacy.events import ADJACENCIES, Gaussian, RandomCoding
from fedwarm.privacy.randomness import SYSTEM, Source
from fedwarm.privacy.views import VIEWS, Release, Terms, calibrate
from fedwarm.settings.fields import Group, SettingError, setting

Vector = NDArray[np.float64]
MEAN, VELOCITY = "dp-rec/mean", "dp-rec/velocity"
NO_PRIVACY = "dp-rec.entropy = 'seeded': whoever knows the seed can repeat the private draws; epsilon is what they would cost"


@dataclass(frozen=True)
class DpRec(Group, prefix="dp-rec", used=lambda r: r.uploads):
    """Settings of DP-REC."""

    mechanism: str = setting(
        "coding", "coding: random code words; gaussian: the update plus noise, uncompressed; none: clipped only, no privacy",
        choices=("coding", "gaussian", "none"),
    )  # fmt: skip
    bits: int = setting(
        7,
        "b, bits a block: one of 2^b candidates is named",
        low=1,
        high=MOST_BITS,
        when=lambda r: r["dp-rec.mechanism"] == "coding",
    )
    block_rule: str = setting(
        "fixed_size", "how an update is cut into blocks", choices=RULES, when=lambda r: r["dp-rec.mechanism"] == "coding"
    )
    block_size: int = setting(
        0,
        "numbers a block (fixed_size); 0: so that a block's KL suits its bits",
        low=0,
        when=lambda r: r["dp-rec.mechanism"] == "coding",
    )
    clip: float = setting(1.0, "C, the most Euclidean norm of a client's update", low=1e-12)
    sigma: float = setting(
        0.0,
        "scale of the noise; 0: from target-epsilon, else from noise-multiplier",
        low=0.0,
        when=lambda r: r["dp-rec.mechanism"] != "none",
    )
    target_epsilon: float = setting(
        0.0,
        "epsilon of the run: sigma is made for it, and it is never passed; 0: none",
        low=0.0,
        when=lambda r: r["dp-rec.mechanism"] != "none",
    )
    noise_multiplier: float = setting(
        2.0,
        "z = sqrt(n) sigma / C for n updates in a sum",
        low=1e-6,
        when=lambda r: r["dp-rec.mechanism"] != "none" and not (r["dp-rec.sigma"] or r["dp-rec.target-epsilon"]),
    )
    delta: float = setting(
        1e-5, "delta of (epsilon, delta)", low=1e-300, high=0.5, when=lambda r: r["dp-rec.mechanism"] != "none"
    )
    view: str = setting("local", "who the guarantee is against; central views need secret seeds and cohorts", choices=VIEWS)
    adjacency: str = setting(
        "zero_out",
        "what a client is exchanged for: silence, or any other update",
        choices=ADJACENCIES,
        when=lambda r: r["dp-rec.mechanism"] != "none" or r["dp-rec.view"] != "local",
    )
    rotation: str = setting(
        "auto",
        "shared rotation before the cut; auto: hadamard for fixed_size, else none",
        choices=("auto", "none", "hadamard", "qr"),
        when=lambda r: r["dp-rec.mechanism"] == "coding",
    )
    magnitude: str = setting(
        "clip",
        "clip: blocks keep their norm up to a cap; scale: all get the cap's",
        choices=MAGNITUDES,
        when=lambda r: r["dp-rec.mechanism"] == "coding",
    )
    debias: bool = setting(
        True, "divide by the known shrinkage of random coding", when=lambda r: r["dp-rec.mechanism"] == "coding"
    )
    prior: str = setting("zero", "centre of the candidates: zero, or the last public mean update", choices=("zero", "last"))
    downlink: str = setting(
        "dense", "dense: the model; replay: the cohorts' code words where they are smaller (local view)",
        choices=("dense", "replay"),
    )  # fmt: skip
    server_learning_rate: float = setting(
        1.0, "eta, step of the server along the mean update", low=0.0, when=lambda r: not r.averages
    )
    server_momentum: float = setting(0.0, "momentum of the server's step", low=0.0, high=0.9999, when=lambda r: not r.averages)
    entropy: str = setting(
        "system",
        "system: private draws from the operating system; seeded: from the run's seed, for experiments, not private",
        choices=("system", "seeded"),
        when=lambda r: r["dp-rec.mechanism"] != "none" or r["dp-rec.view"] != "local",
    )


def validated(settings: DpRec) -> DpRec:
    """The settings, if they go together.

    Raises:
        SettingError: they do not; the message names the two and says what would be right.
    """
    if settings.view != "local" and settings.downlink == "replay":
        raise SettingError(f"dp-rec.downlink = 'replay' tells clients the code words, not so in {settings.view}; use dense")
    if settings.block_rule != "fixed_size" and settings.rotation in ("hadamard", "qr"):
        raise SettingError(
            f"dp-rec.rotation = {settings.rotation!r} mixes what block-rule {settings.block_rule!r} tells apart; use none or auto"
        )
    if settings.block_rule != "fixed_size" and settings.block_size:
        raise SettingError(f"dp-rec.block-size is for fixed_size alone; with {settings.block_rule} it must be 0")
    Terms(settings.view, settings.delta, 1, 1, 1, settings.adjacency)
    return settings


def terms_of(settings: DpRec, population: int, cohort: int, rounds: int, participations: int = 0) -> Terms:
    """What the run's guarantee is stated for."""
    return Terms(settings.view, settings.delta, population, cohort, rounds, settings.adjacency, participations)


# Blocks


def rotation_of(settings: DpRec) -> str:
    """The rotation that `auto` stands for."""
    if settings.rotation != "auto":
        return settings.rotation
    return "hadamard" if settings.block_rule == "fixed_size" else "none"


def block_norm(bits: int, delta: float) -> float:
    """c that a block should have at most: min(1, sqrt(2) ln K / sqrt(ln 1 / delta)).

    Up to there a block costs about what the Gaussian mechanism would.
    """
    return min(1.0, sqrt(2) * bits * log(2) / sqrt(log(1 / delta)))


def block_count(settings: DpRec, size: int, sigma: float) -> int:
    """B for an update of `size` numbers: as `block_size` says, else X / c^2 with the c of `block_norm`."""
    total = padded(size, rotation_of(settings))
    if settings.block_size:
        return ceil(total / settings.block_size)
    wanted = (settings.clip / sigma / block_norm(settings.bits, settings.delta)) ** 2
    return max(1, min(total, ceil(min(wanted, total) - 1e-9)))


def blocks_of(settings: DpRec, sizes: Sequence[int], sigma: float, profile: Vector | None = None) -> Blocks:
    """The cut of an update.

    Args:
        settings: the rule and what it needs.
        sizes: numbers of each array of the layout.
        sigma: scale of the noise.
        profile: the last public mean update (d,), for `kl_adaptive`; None in the first round: even blocks.
    """
    size = sum(sizes)
    if settings.block_rule == "per_tensor":
        return per_tensor(sizes)
    count = block_count(settings, size, sigma)
    if settings.block_rule == "kl_adaptive":
        return even(size, count) if profile is None else kl_adaptive(profile, count)
    total = padded(size, rotation_of(settings))
    return fixed_size(total, settings.block_size) if settings.block_size else even(total, count)


# Noise and its price


def release_of(settings: DpRec, sizes: Sequence[int], sigma: float, blocks: Blocks | None = None) -> Release:
    """What one message releases, at this sigma; `blocks` where they are not those of the first round."""
    energy = (settings.clip / sigma) ** 2
    if settings.mechanism == "gaussian":
        return Gaussian(energy)
    cut = blocks or blocks_of(settings, sizes, sigma)
    caps = energy * np.asarray(cut.shares) if settings.magnitude == "scale" else cut.caps(energy)
    return RandomCoding.of(settings.bits, energy, caps)


def sigma_of(settings: DpRec, sizes: Sequence[int], terms: Terms, epsilon: Callable[[float], float] | None = None) -> float:
    """The scale of the noise: as set, calibrated to `target_epsilon`, or z C / sqrt(n).

    Args:
        settings: what is wanted.
        sizes: numbers of each array of an update.
        terms: what the guarantee is stated for.
        epsilon: of the whole run at a sigma, where it is more than `terms.rounds` times one release.

    Raises:
        SettingError: no noise reaches the target.
    """
    if settings.sigma:
        return settings.sigma
    if not settings.target_epsilon:
        return settings.noise_multiplier * settings.clip / sqrt(terms.slots.count)
    return calibrate(
        epsilon or (lambda sigma: terms.epsilon(release_of(settings, sizes, sigma))),
        settings.target_epsilon,
        low=settings.clip * 0.01,
        high=settings.clip * 1e4,
    )


def codec_of(settings: DpRec, sizes: Sequence[int], sigma: float, profile: Vector | None = None) -> RandomCodec:
    """The codec that both sides build from the settings, the layout's sizes and sigma."""
    return RandomCodec(
        size=sum(sizes),
        bits=settings.bits,
        sigma=sigma,
        clip=settings.clip,
        blocks=blocks_of(settings, sizes, sigma, profile),
        rotation=rotation_of(settings),
        magnitude=settings.magnitude,
        debias=settings.debias,
    )


def private_source(settings: DpRec, seed: int, *keys: str | int) -> Source:
    """Private bytes for a message's draws: the operating system's, or for experiments those of the run's seed."""
    return SYSTEM if settings.entropy == "system" else numpy_generator(seed, "dp-rec", *keys).bytes


def released(
    settings: DpRec,
    update: Vector,
    sizes: Sequence[int],
    sigma: float,
    profile: Vector | None,
    stream: Stream,
    source: Source,
    device: torch.device,
) -> Arrays:
    """An update (d,) as it leaves a client: `words`, its code words; or `update`, clipped, with noise where there is any.

    Raises:
        UpdateError: it holds NaN or infinity; nothing was drawn.
    """
    if settings.mechanism != "coding":
        return {"update": noised(clip(update, settings.clip), sigma, source).astype(np.float32)}
    words = codec_of(settings, sizes, sigma, profile).encode(update, stream, source, device)
    return {"words": np.frombuffer(words, np.uint8)}


def statement(settings: DpRec, terms: Terms, sigma: float, epsilon: float) -> dict[str, str | float | bool]:
    """What a run says of its privacy; never epsilon alone."""
    return {
        "epsilon": epsilon,
        "delta": terms.delta,
        "view": terms.view,
        "adjacency": terms.adjacency,
        "sigma": sigma,
        "clip": settings.clip,
        "certified": terms.certified and settings.entropy == "system",
        "sampling_rate": terms.rate if terms.central else 1.0,
    }


# The server's step


def step(mean: Vector, velocity: Vector | None, settings: DpRec) -> tuple[Vector, Vector | None]:
    """(what the model moves by, the new velocity): eta u, with u = mean, or u = momentum * velocity + mean."""
    if settings.server_momentum == 0:
        return settings.server_learning_rate * mean, None
    moved = mean if velocity is None else settings.server_momentum * velocity + mean
    return settings.server_learning_rate * moved, moved


@dataclass(frozen=True)
class Public:
    """What everyone may know before a round: what the server sends, or what a client makes out of replayed code words.

    Attributes:
        arrays: the model.
        mean: the last mean update (d,), where the settings use it; None before the first round.
        velocity: the server's momentum (d,); None before the first round, or without momentum.
    """

    arrays: Arrays
    mean: NDArray[np.float32] | None = None
    velocity: Vector | None = None

    @staticmethod
    def of(named: Arrays) -> Public:
        """Out of what `named` gave."""
        found = dict(named)
        mean, velocity = found.pop(MEAN, None), found.pop(VELOCITY, None)
        return Public(
            found,
            None if mean is None else mean.astype(np.float32, copy=False),
            None if velocity is None else velocity.astype(np.float64, copy=False),
        )

    def named(self, settings: DpRec) -> Arrays:
        """As arrays for the wire; the velocity goes along only where clients replay the server's steps."""
        found: Arrays = dict(self.arrays)
        if self.mean is not None:
            found[MEAN] = self.mean
        if self.velocity is not None and settings.downlink == "replay":
            found[VELOCITY] = self.velocity
        return found

    def profile(self, settings: DpRec) -> Vector | None:
        """What `kl_adaptive` cuts blocks by."""
        return self.mean.astype(np.float64) if self.mean is not None and settings.block_rule == "kl_adaptive" else None

    def centre(self, settings: DpRec) -> Vector | float:
        """What is taken off an update before it is clipped, and put back to the decoded mean."""
        return self.mean.astype(np.float64) if self.mean is not None and settings.prior == "last" else 0.0

    def after(self, decoded: Vector, layout: Layout, settings: DpRec) -> Public:
        """After a round whose decoded mean is this (d,): both sides do it in the same float64 operations."""
        mean = decoded + self.centre(settings)
        move, velocity = step(mean, self.velocity, settings)
        used = settings.prior == "last" or settings.block_rule == "kl_adaptive"
        return Public(layout.moved(self.arrays, move), mean.astype(np.float32) if used else None, velocity)


def run_number(seed: int) -> int:
    """The number of the run in the shared streams: the same seed draws the same candidates."""
    return derive(seed, "dp-rec")
