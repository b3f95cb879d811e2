"""Stochastic rounding on the wire: an array as b bits a number and one scale, unbiased.

Louizos, Reisser, Blankevoort, Gavves, Welling, "Relaxed Quantization for Discretized Neural Networks", arXiv 1810.01875,
section 2: uniform noise as wide as the grid's step makes the rounded number right in the mean. Here the step is
alpha = max|x| / (2^(b-1) - 1), so that nothing is clipped; x / alpha goes down or up to a whole number, whose mean it is and
whose variance is (x / alpha - k)(k + 1 - x / alpha) with k = floor(x / alpha). A message is alpha as little-endian float32, then
the whole numbers plus 2^(b-1) - 1 in b bits each, as `packing` packs them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fedwarm.coding import packing
from fedwarm.coding.packing import CodeError

FEWEST_BITS, MOST_BITS = 2, packing.MOST_BITS
SCALE_BYTES = 4


def packed_bytes(count: int, bits: int) -> int:
    """Bytes of one array of `count` numbers: ceil(b count / 8) + 4.

    Raises:
        CodeError: `bits` is not 2 to 16.
    """
    if not FEWEST_BITS <= bits <= MOST_BITS:
        raise CodeError(f"bits = {bits}; stochastic rounding takes {FEWEST_BITS} to {MOST_BITS}")
    return packing.packed_bytes(count, bits) + SCALE_BYTES


def top(bits: int) -> int:
    """The largest k of a grid: 2^(b-1) - 1."""
    return (1 << bits - 1) - 1


def step_of(values: NDArray[np.floating], bits: int) -> np.float32:
    """alpha: the least float32 for which no |x| / alpha is above the grid's end; 0 where all are zero.

    Raises:
        CodeError: a number is NaN or infinite, or too large for a float32.
    """
    largest = float(np.abs(values).max(initial=0.0))
    if not np.isfinite(largest):
        raise CodeError("an array with NaN or infinite numbers cannot be rounded")
    with np.errstate(over="ignore"):
        step = np.float32(largest / top(bits))
    while float(step) * top(bits) < largest:
        step = np.nextafter(step, np.float32(np.inf))
    if not np.isfinite(step):
        raise CodeError(f"an array with numbers up to {largest:.3g}; a step is a float32, which ends at 3.4e38")
    return step


def encode(values: NDArray[np.floating], bits: int, draws: np.random.Generator) -> bytes:
    """An array of any shape as `packed_bytes(values.size, bits)` bytes.

    Args:
        values: float32 or float64.
        bits: b, 2 to 16.
        draws: one uniform number is drawn for each of the array's.

    Raises:
        CodeError: the array cannot be coded; nothing was drawn.
    """
    packed_bytes(values.size, bits)
    flat = np.asarray(values).reshape(-1)
    step = step_of(flat, bits)
    scaled = np.divide(flat, float(step) or 1.0, dtype=np.float64)
    scaled += draws.random(flat.size)
    indices = np.floor(scaled, out=scaled).astype(np.int32)
    indices += top(bits)
    head: bytes = step.astype("<f4").tobytes()
    return head + packing.pack(indices, bits)


def decode(data: bytes, count: int, bits: int) -> NDArray[np.float64]:
    """The numbers (count,) of what `encode` wrote.

    Raises:
        CodeError: another length, a step that is negative or not finite, or an index that is off the grid.
    """
    if len(data) != packed_bytes(count, bits):
        raise CodeError(f"{len(data)} bytes; {count} numbers of {bits} bits and a step take {packed_bytes(count, bits)}")
    step = float(np.frombuffer(data, "<f4", 1)[0])
    if not (np.isfinite(step) and step >= 0):
        raise CodeError(f"step = {step}; it must be finite and not negative")
    indices = packing.unpack(data[SCALE_BYTES:], count, bits)
    if indices.max(initial=0) > 2 * top(bits):
        raise CodeError(f"index {indices.max()} is off the grid, which ends at {2 * top(bits)}")
    return (indices.astype(np.float64) - top(bits)) * step


def encode_all(arrays: Sequence[NDArray[np.floating]], bits: int, draws: np.random.Generator) -> NDArray[np.uint8]:
    """Arrays behind one another, each with a step of its own, as uint8 (sum of `packed_bytes`,)."""
    return np.frombuffer(b"".join(encode(array, bits, draws) for array in arrays), np.uint8)


def decode_all(data: NDArray[np.uint8], counts: Sequence[int], bits: int) -> list[NDArray[np.float64]]:
    """What `encode_all` wrote, each array flat.

    Raises:
        CodeError: the bytes are not those of arrays of so many numbers.
    """
    ends = np.cumsum([packed_bytes(count, bits) for count in counts], dtype=np.int64).tolist()
    total = ends[-1] if ends else 0
    if data.dtype != np.uint8 or data.shape != (total,):
        raise CodeError(f"{data.dtype} of shape {list(data.shape)}; these arrays take uint8 [{total}]")
    words = data.tobytes()
    return [decode(words[start:end], n, bits) for start, end, n in zip([0, *ends], ends, counts, strict=False)]
