"""Parts of a model as one array of bytes: a mask of groups, a number for each of them, and the weights that the mask leaves.

    ceil(G / 8) bytes of mask [+ ceil(G / 8) of the groups that are gone for good] + 2 bytes a group as float16 + 4 bytes a weight

Weights may be rounded at random to b bits instead (see `coding.stochastic`), tensor by tensor: ceil(b n / 8) + 4 bytes each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from fedwarm.coding import stochastic
from fedwarm.coding.packing import CodeError, mask_bytes, unpack_mask
from fedwarm.core.arrays import Arrays
from fedwarm.sparse.groups import Mask, Masks

Bytes = NDArray[np.uint8]
F = TypeVar("F", bound=np.floating)
VALUE_BYTES, NUMBER_BYTES = 4, 2
PACKED = "groups"  # how the array is called that travels
THETA = "theta"  # and the number beside it, where theta is the same for all groups


def most_bytes(count: int, numbers: int, tensors: int) -> int:
    """The most bytes that a model of so many groups, numbers and tensors takes."""
    return mask_bytes(count) + NUMBER_BYTES * count + VALUE_BYTES * (numbers + tensors)


class Reader:
    """Takes a packed array to pieces, from its beginning."""

    def __init__(self, packed: NDArray[np.generic]) -> None:
        if packed.dtype != np.uint8 or packed.ndim != 1:
            raise CodeError(f"a packed model is uint8 of one dimension, this is {packed.dtype}{list(packed.shape)}")
        self.data, self.at = packed.tobytes(), 0

    def take(self, size: int) -> bytes:
        """The next bytes.

        Raises:
            CodeError: there are fewer.
        """
        if self.at + size > len(self.data):
            raise CodeError(f"a packed model of {len(self.data)} bytes ends too early: {self.at + size} are needed")
        self.at += size
        return self.data[self.at - size : self.at]

    def mask(self, count: int) -> Mask:
        """The next mask (count,).

        Raises:
            CodeError: it is cut short, or a bit behind its last is set.
        """
        return unpack_mask(self.take(mask_bytes(count)), count)

    def numbers(self, count: int) -> NDArray[np.float64]:
        """The next float16 numbers (count,)."""
        return np.frombuffer(self.take(NUMBER_BYTES * count), "<f2").astype(np.float64)

    def end(self) -> None:
        """See that nothing is left.

        Raises:
            CodeError: something is.
        """
        if self.at != len(self.data):
            raise CodeError(f"a packed model of {len(self.data)} bytes has {len(self.data) - self.at} too many")


def values_bytes(chosen: Masks, bits: int = 0) -> int:
    """Bytes of the chosen weights; `bits` a number where they are rounded, 0 where they are float32."""
    counts = [int(np.count_nonzero(mask)) for mask in chosen.values()]
    if not bits:
        return VALUE_BYTES * sum(counts)
    return sum(stochastic.packed_bytes(n, bits) for n in counts if n)


def to_values(arrays: Arrays, chosen: Masks) -> bytes:
    """The chosen weights as float32, tensor by tensor."""
    return b"".join(np.asarray(arrays[name][mask], "<f4").tobytes() for name, mask in chosen.items())


def from_values(reader: Reader, chosen: Masks) -> Arrays:
    """What `to_values` wrote: full tensors, 0 where nothing was chosen."""
    return {**_placed(chosen, lambda n: np.frombuffer(reader.take(VALUE_BYTES * n), "<f4").astype(np.float32))}


def to_rounded(arrays: Arrays, reference: Arrays, chosen: Masks, bits: int, draws: np.random.Generator) -> bytes:
    """Differences to the reference, rounded at random to `bits` bits."""
    gaps = (arrays[n][m].astype(np.float64) - reference[n][m].astype(np.float64) for n, m in chosen.items() if m.any())
    return b"".join(stochastic.encode(gap, bits, draws) for gap in gaps)


def from_rounded(reader: Reader, reference: Arrays, chosen: Masks, bits: int) -> Arrays:
    """What `to_rounded` wrote, added to the reference."""
    gaps = _placed(
        chosen, lambda n: stochastic.decode(reader.take(stochastic.packed_bytes(n, bits)), n, bits) if n else np.empty(0)
    )
    return {n: np.where(m, reference[n].astype(np.float64) + gaps[n], 0).astype(np.float32) for n, m in chosen.items()}


def _placed(chosen: Masks, take: Callable[[int], NDArray[F]]) -> dict[str, NDArray[F]]:
    out = {}
    for name, mask in chosen.items():
        found = take(int(np.count_nonzero(mask)))
        full = np.zeros(mask.shape, found.dtype)
        full[mask] = found
        out[name] = full
    return out


def joined(parts: Sequence[bytes]) -> Bytes:
    """Parts behind one another, as an array."""
    return np.frombuffer(b"".join(parts), np.uint8)


def to_numbers(values: NDArray[np.floating]) -> bytes:
    """Numbers as float16."""
    return np.asarray(values, "<f2").tobytes()
