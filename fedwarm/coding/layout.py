"""Named arrays <-> one vector, in an order that both sides share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from fedwarm.coding.packing import CodeError
from fedwarm.core.arrays import Arrays

Named = Mapping[str, NDArray[np.generic]]


@dataclass(frozen=True)
class Layout:
    """Names and shapes, ascending by name."""

    entries: tuple[tuple[str, tuple[int, ...]], ...]

    @staticmethod
    def of(arrays: Named, names: Iterable[str] | None = None) -> Layout:
        """The layout of the floating arrays among `names` (all where None); counters and masks never enter.

        Pass the names of a model's parameters to leave its running statistics out.
        """
        chosen = sorted(arrays if names is None else set(names) & set(arrays))
        return Layout(tuple((n, arrays[n].shape) for n in chosen if np.issubdtype(arrays[n].dtype, np.floating)))

    @property
    def sizes(self) -> tuple[int, ...]:
        """Numbers of each array."""
        return tuple(prod(shape) for _, shape in self.entries)

    @property
    def total(self) -> int:
        """d, numbers of the vector."""
        return sum(self.sizes)

    def flatten(self, arrays: Named) -> NDArray[np.float64]:
        """The vector (d,); arrays outside the layout are left out.

        Raises:
            CodeError: an array is missing or has another shape.
        """
        for name, shape in self.entries:
            if name not in arrays or arrays[name].shape != shape:
                found = list(arrays[name].shape) if name in arrays else "missing"
                raise CodeError(f"array {name!r} is {found}; the layout has {list(shape)}")
        parts = [np.asarray(arrays[name], np.float64).reshape(-1) for name, _ in self.entries]
        return np.concatenate([np.empty(0), *parts])

    def split(self, vector: NDArray[np.float64]) -> list[NDArray[np.float64]]:
        """The vector (d,) as one piece an array."""
        return np.split(vector, np.cumsum(self.sizes)[:-1]) if self.entries else []

    def difference(self, after: Named, before: Named) -> NDArray[np.float64]:
        """after - before as a vector (d,), subtracted in float64."""
        return self.flatten(after) - self.flatten(before)

    def moved(self, arrays: Named, step: NDArray[np.float64]) -> Arrays:
        """arrays + step: added in float64, each in its own dtype; arrays outside the layout are the same objects."""
        if step.shape != (self.total,):
            raise CodeError(f"a step of shape {list(step.shape)}; the layout has [{self.total}]")
        out: Arrays = dict(arrays)
        start = 0
        for (name, shape), size in zip(self.entries, self.sizes, strict=True):
            part = step[start : start + size].reshape(shape)
            out[name] = np.asarray(arrays[name].astype(np.float64) + part).astype(arrays[name].dtype)
            start += size
        return out
