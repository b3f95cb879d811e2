"""A client's training pictures as they came, for what needs them larger than a classifier does: read when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from fedwarm.data.rotation import rotated
from fedwarm.data.tables import Rows


@dataclass(frozen=True, eq=False)
class Originals:
    """Pictures in their own proportions.

    Attributes:
        read: as `Table.originals`.
        rows: (n,), those of the data set that the client holds for training.
        degrees: by how much its pictures are turned.
    """

    read: Callable[[Rows, int], list[Tensor]]
    rows: Rows
    degrees: float = 0.0

    def __len__(self) -> int:
        return len(self.rows)

    def at(self, which: Sequence[int], side: int) -> list[Tensor]:
        """Some of them, by their numbers from 0: uint8 (3, h, w) each, the shorter side `side` pixels long."""
        found = self.read(self.rows[np.asarray(which, dtype=np.int64)], side)
        return [rotated(picture[None], self.degrees)[0] for picture in found] if self.degrees else found
