"""Rotations that all clients of a round share: they spread an update's energy evenly over its blocks.

The randomised Hadamard transform (Ailon, Chazelle, "The Fast Johnson-Lindenstrauss Transform", SIAM J. Comput. 39, 2009) adds
and subtracts float64 in a fixed order, so every machine computes the same bits. A Haar rotation by QR is there for studies:
it costs O(d^3), and its bits depend on the machine's LAPACK.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedwarm.coding.packing import CodeError
from fedwarm.coding.streams import Key, Words, normals, signs

KINDS = ("none", "hadamard", "qr")
QR_LIMIT = 4096

Vector = NDArray[np.float64]


def padded(size: int, kind: str) -> int:
    """Numbers of a rotated vector: the next power of two for `hadamard`, else `size`.

    Raises:
        CodeError: unknown kind, or too many numbers for `qr`.
    """
    if kind not in KINDS:
        raise CodeError(f"rotation {kind!r} is unknown; choose one of {', '.join(KINDS)}")
    if kind == "qr" and size > QR_LIMIT:
        raise CodeError(f"rotation qr of {size} numbers; it takes at most {QR_LIMIT}: choose hadamard")
    return 1 << (size - 1).bit_length() if kind == "hadamard" else size


def rotate(v: Vector, kind: str, key: Key) -> Vector:
    """R v: (d,) -> (padded,), of the same norm."""
    n = padded(v.size, kind)
    if kind == "none":
        return v.copy()
    if kind == "qr":
        return np.asarray(_haar(n, key) @ v)
    x = np.zeros(n)
    np.multiply(v, signs(key, n)[: v.size], out=x[: v.size])
    return hadamard(x)


def restore(x: Vector, kind: str, key: Key, size: int) -> Vector:
    """The inverse, R^T x without the padding: (padded,) -> (size,)."""
    n = padded(size, kind)
    if kind == "none":
        return x.copy()
    if kind == "qr":
        return np.asarray(_haar(n, key).T @ x)
    return hadamard(x.astype(np.float64))[:size] * signs(key, n)[:size]


def hadamard(x: Vector) -> Vector:
    """The orthonormal Walsh-Hadamard transform of 2^k numbers, its own inverse; `x` is overwritten.

    Butterflies of width h = 1, 2, 4, .. add and subtract numbers at distance h.
    """
    n = x.size
    if n & (n - 1) or not n:
        raise CodeError(f"the Hadamard transform of {n} numbers; it takes a power of two")
    other = np.empty_like(x)
    h = 1
    while h < n:
        pairs, out = x.reshape(-1, 2, h), other.reshape(-1, 2, h)
        np.add(pairs[:, 0], pairs[:, 1], out=out[:, 0])
        np.subtract(pairs[:, 0], pairs[:, 1], out=out[:, 1])
        x, other = other, x
        h *= 2
    x *= 1 / np.sqrt(n)
    return x


def _haar(n: int, key: Key) -> Vector:
    gaussian = normals(key, 0, n * n, Words()).astype(np.float64).reshape(n, n)
    q, r = np.linalg.qr(gaussian)
    return np.asarray(q * np.sign(np.diagonal(r)))
