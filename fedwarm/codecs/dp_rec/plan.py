"""DP-REC: Triastcyn, Reisser, Louizos, "DP-REC: Private & Communication-Efficient Federated Learning", arXiv 2111.05454 (2021).

A client's clipped update is sent as a few indices of shared random candidates, and the randomness of the choice is what makes it
private. Here are the settings and what follows from them: the scale of the noise, the blocks, the codec of both sides, what a
message releases, and the server's step. The paper's public text states no values; all of them are choices of ours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import ceil, log, sqrt
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedwarm.codecs.dp_rec.settings import CODED, DpRec
from fedwarm.coding.blocks import Blocks, even, fixed_size, kl_adaptive, per_tensor
from fedwarm.coding.codec import BlockCodec, RandomCodec
from fedwarm.coding.packing import CodeError
from fedwarm.coding.poisson import PoissonCodec
from fedwarm.coding.rotation import padded
from fedwarm.coding.rounded import RoundedCodec
from fedwarm.coding.streams import NONCE_BYTES, Stream
from fedwarm.core.arrays import Arrays
from fedwarm.core.seeds import derive, numpy_generator
from fedwarm.privacy.clipping import clip, noised
from fedwarm.privacy.events import AtServer, Gaussian, RandomCoding, Simulated
from fedwarm.privacy.randomness import SYSTEM, Source
from fedwarm.privacy.views import Release, Terms, calibrate
from fedwarm.settings.fields import SettingError

Vector = NDArray[np.float64]


# Blocks


def rotation_of(settings: DpRec) -> str:
    """The rotation that `auto` stands for."""
    if settings.rotation != "auto":
        return settings.rotation
    return "hadamard" if settings.cut == "fixed_size" else "none"


def block_norm(bits: int, delta: float) -> float:
    """c that a block should have at most: min(1, sqrt(2) ln K / sqrt(ln 1 / delta)).

    Up to there a block costs about what the Gaussian mechanism would.
    """
    return min(1.0, sqrt(2) * bits * log(2) / sqrt(log(1 / delta)))


def block_count(settings: DpRec, size: int, sigma: float) -> int:
    """B for an update of `size` numbers: as `block_size` says, else X / c^2 with the c of `block_norm`, or the one set."""
    total = padded(size, rotation_of(settings))
    if settings.block_size:
        return ceil(total / settings.block_size)
    norm = settings.block_norm if settings.mechanism == "poisson" else block_norm(settings.bits, settings.delta)
    wanted = (settings.clip / sigma / norm) ** 2
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
    if settings.mechanism == "server":
        return even(padded(size, rotation_of(settings)), 1)
    if settings.cut == "per_tensor":
        return per_tensor(sizes)
    count = block_count(settings, size, sigma)
    if settings.cut == "kl_adaptive":
        return even(size, count) if profile is None else kl_adaptive(profile, count)
    total = padded(size, rotation_of(settings))
    return fixed_size(total, settings.block_size) if settings.block_size else even(total, count)


# Noise and its price


def release_of(settings: DpRec, sizes: Sequence[int], sigma: float, blocks: Blocks | None = None) -> Release:
    """What one message releases, at this sigma; `blocks` where they are not those of the first round."""
    energy = (settings.clip / sigma) ** 2
    if settings.mechanism == "gaussian":
        return Gaussian(energy)
    if settings.mechanism == "poisson":
        return Simulated(energy)
    if settings.mechanism == "server":
        return AtServer(energy)
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


def codec_of(
    settings: DpRec, sizes: Sequence[int], sigma: float, profile: Vector | None = None, tolerance: float = 0.0
) -> BlockCodec:
    """The codec that both sides build from the settings, the layout's sizes, sigma and, for `poisson`, `Terms.tolerance`.

    Raises:
        SettingError: blocks that take more candidates than can be tried.
    """
    blocks = blocks_of(settings, sizes, sigma, profile)
    shared = (sum(sizes), sigma, settings.clip, blocks, rotation_of(settings), settings.magnitude)
    if settings.mechanism == "server":
        return RoundedCodec(*shared[:-1], bits=settings.bits)
    if settings.mechanism == "coding":
        return RandomCodec(*shared, bits=settings.bits, debias=settings.debias, nonce_bytes=nonce_bytes(settings))
    return exact_codec(*shared, tolerance)


def exact_codec(*given: Any) -> PoissonCodec:
    """A `PoissonCodec` of these.

    Raises:
        SettingError: its blocks take more candidates than can be tried.
    """
    try:
        return PoissonCodec(*given)
    except CodeError as error:
        told = f"dp-rec.mechanism = 'poisson': {error}, by dp-rec.block-norm, dp-rec.block-size or more noise"
        raise SettingError(told) from error


def nonce_bytes(settings: DpRec) -> int:
    """Bytes of the nonce before a message's code words: where streams are public, so that nobody knows them beforehand."""
    return NONCE_BYTES if settings.view == "local" and settings.mechanism == "coding" else 0


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
    tolerance: float = 0.0,
) -> Arrays:
    """An update (d,) as it leaves a client: `words`, its code words; or `update`, clipped, with noise where there is any.

    Raises:
        UpdateError: it holds NaN or infinity; nothing was drawn.
    """
    if settings.mechanism not in CODED:
        return {"update": noised(clip(update, settings.clip), sigma, source).astype(np.float32)}
    words = codec_of(settings, sizes, sigma, profile, tolerance).encode(update, stream, source, device)
    return {"words": np.frombuffer(words, np.uint8)}


# The server's step


def run_number(seed: int) -> int:
    """The number of the run in the shared streams, which nonces or secrets tell from other runs of the same seed."""
    return derive(seed, "dp-rec")
