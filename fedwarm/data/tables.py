"""What every data set looks like to the partitions: labels in memory, columns of ids and images on demand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Rows = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Column:
    """A column of names: `codes` (n,) are indices into `names`."""

    codes: Rows
    names: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Table:
    """A labelled set of n images.

    Attributes:
        name: as the user gave it.
        label: labels (n,) and class names.
        columns: the columns there are.
        column: reads a column of ids by name; SettingError where its values cannot be ids.
        images: decodes the given rows (k,) to uint8 (k, 3, S, S).
    """

    name: str
    label: Column
    columns: tuple[str, ...]
    column: Callable[[str], Column]
    images: Callable[[Rows], Tensor]

    def __len__(self) -> int:
        return len(self.label.codes)


def coded(values: Sequence[str] | Sequence[int]) -> Column:
    """Numbers for the sorted distinct values, named by their text."""
    names, codes = np.unique(np.asarray(values), return_inverse=True)
    return Column(codes.astype(np.int64), tuple(str(name) for name in names))
