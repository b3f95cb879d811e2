"""Private randomness: what a guarantee rests on comes from the operating system, never from a shared or seeded stream.

A `Source` gives so many bytes. Tests and experiments that must repeat pass `numpy.random.default_rng(seed).bytes`; a run that
does so has no privacy against anyone who knows the seed.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from hashlib import shake_256
from itertools import count

import numpy as np
from numpy.typing import NDArray

Source = Callable[[int], bytes]
SYSTEM: Source = os.urandom


def keyed(key: bytes) -> Source:
    """Bytes out of a secret key by SHAKE-256, fresh ones with every call: private to those who hold the key, and repeatable."""
    calls = count()
    return lambda size: shake_256(next(calls).to_bytes(8, "little") + key).digest(size)


def uniforms(count: int, source: Source = SYSTEM) -> NDArray[np.float64]:
    """Uniforms (count,) in (0, 1): odd multiples of 2^-53."""
    words = np.frombuffer(source(8 * count), "<u8")
    return ((words >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52


def gumbels(count: int, source: Source = SYSTEM) -> NDArray[np.float64]:
    """Standard Gumbel draws (count,): argmax(l + g) is a draw from softmax(l)."""
    return np.asarray(-np.log(-np.log(uniforms(count, source))))


def normals(count: int, source: Source = SYSTEM) -> NDArray[np.float64]:
    """Standard normals (count,)."""
    from scipy.special import ndtri

    return np.asarray(ndtri(uniforms(count, source)))


def integers(count: int, bits: int, source: Source = SYSTEM) -> NDArray[np.uint16]:
    """Uniform integers (count,) of 1 to 16 bits."""
    return (np.frombuffer(source(2 * count), "<u2") >> np.uint16(16 - bits)).astype(np.uint16)
