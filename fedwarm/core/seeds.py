"""Random generators keyed by what they belong to.

Every draw of a run comes from `generator(run_seed, *keys)`; the keys say what it is for, e.g. ("train", round, client). Two
parties that hold the same seed and keys draw the same numbers: that is how shared randomness travels for free.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

Key = str | int


def derive(seed: int, *keys: Key) -> int:
    """A 63-bit seed from the run's seed and the keys: the first bytes of SHA-256 over their unambiguous text."""
    parts = [f"{type(k).__name__[0]}{k}".replace("\x1b", "\x1b\x1b").replace("\x1f", "\x1b\x1e") for k in keys]
    text = "\x1f".join([f"i{seed}", *parts])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *keys: Key) -> torch.Generator:
    """A torch generator on the CPU for (seed, keys)."""
    return torch.Generator().manual_seed(derive(seed, *keys))


def numpy_generator(seed: int, *keys: Key) -> np.random.Generator:
    """A numpy generator for (seed, keys)."""
    return np.random.default_rng(derive(seed, *keys))


@contextmanager
def initialisation(seed: int, *keys: Key) -> Iterator[None]:
    """Run a block whose modules draw their first weights from torch's global generator, and put that generator back."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive(seed, *keys))  # the CPU's alone: torch.manual_seed would queue CUDA's, slowly
        yield
