"""Named arrays: out of modules and back, cast for the wire, and a weighted mean that streams in a fixed order."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Arrays = dict[str, NDArray[np.generic]]
PIECE = 2**20


def from_tensors(tensors: Mapping[str, Tensor]) -> Arrays:
    """Tensors as numpy arrays of their own memory; half precision travels as float32, since numpy has no bfloat16."""
    out: Arrays = {}
    for name, tensor in tensors.items():
        t = tensor.detach().to("cpu")
        t = t.float() if t.dtype in (torch.float16, torch.bfloat16) else t
        out[name] = t.numpy().copy()
    return out


def to_tensors(arrays: Mapping[str, NDArray[np.generic]]) -> dict[str, Tensor]:
    """Numpy arrays as CPU tensors of their own memory."""
    return {name: torch.from_numpy(np.array(a)) for name, a in arrays.items()}


def from_module(module: nn.Module) -> Arrays:
    """A module's state (parameters and buffers) as named arrays."""
    return from_tensors(module.state_dict())


def load_module(module: nn.Module, arrays: Mapping[str, NDArray[np.generic]]) -> None:
    """Put named arrays into a module, each in the dtype that the module has.

    Raises:
        RuntimeError: keys are missing or extra, or a shape differs.
    """
    module.load_state_dict(to_tensors(arrays), strict=True)


class WeightedMean:
    """Sum_k w_k x_k / sum_k w_k, one client at a time in the order of the calls (float64 inside, dtype of the input outside).

    McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data", arXiv 1602.05629, Alg. 1.

    Attributes:
        weight: sum_k w_k so far.
    """

    def __init__(self) -> None:
        self._sums: dict[str, NDArray[np.float64]] = {}
        self._dtypes: dict[str, np.dtype[np.generic]] = {}
        self.weight = 0.0

    def add(self, arrays: Arrays, weight: float) -> None:
        """Add one client's arrays.

        Raises:
            ValueError: keys or shapes differ from the first client's, or the weight is not positive.
        """
        if not (weight > 0 and np.isfinite(weight)):
            raise ValueError(f"weight {weight} is not positive and finite")
        if self._sums and arrays.keys() != self._sums.keys():
            raise ValueError(f"arrays differ in their names: {sorted(arrays.keys() ^ self._sums.keys())[:5]}")
        for name, array in arrays.items():
            if name in self._sums and array.shape != self._sums[name].shape:
                raise ValueError(f"{name} has shape {array.shape}, expected {self._sums[name].shape}")
        for name, array in arrays.items():
            if name not in self._sums:
                self._sums[name] = np.zeros(array.shape, dtype=np.float64)
                self._dtypes[name] = array.dtype
            flat, total = array.reshape(-1), self._sums[name].reshape(-1)
            for start in range(0, flat.size, PIECE):
                total[start : start + PIECE] += flat[start : start + PIECE].astype(np.float64) * weight
        self.weight += weight

    def result(self) -> Arrays:
        """The mean; integer arrays are rounded back to their dtype.

        Raises:
            ValueError: nothing was added.
        """
        if not self.weight:
            raise ValueError("no arrays to average")
        out: Arrays = {}
        for name, total in self._sums.items():
            mean, dtype = total / self.weight, self._dtypes[name]
            out[name] = np.asarray(np.rint(mean) if np.issubdtype(dtype, np.integer) else mean).astype(dtype)
        return out


def payload_bytes(arrays: Mapping[str, NDArray[np.generic]]) -> int:
    """Bytes of the numbers alone: sum over arrays of size times itemsize."""
    return sum(a.size * a.itemsize for a in arrays.values())
