"""A partition: client i holds a share of the shuffled rows that falls by a factor from client to client."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedwarm.core.seeds import numpy_generator
from fedwarm.data.settings import Data
from fedwarm.data.tables import Rows, Table
from fedwarm.settings.fields import Group, setting
from fedwarm.settings.registry import component


@dataclass(frozen=True)
class Uneven(Group, prefix="uneven"):
    """Settings of the partition."""

    factor: float = setting(0.7, "what a client holds relative to the one before", low=0.1, high=1.0)


@component(settings=Uneven)
def uneven(table: Table, data: Data, seed: int, partitions: int) -> list[Rows]:
    """Shares that fall geometrically from client to client."""
    shares = data.of(Uneven).factor ** np.arange(partitions)
    ends = np.cumsum(np.floor(shares / shares.sum() * len(table)).astype(np.int64))
    ends[-1] = len(table)
    parts: list[Rows] = np.split(numpy_generator(seed, "uneven").permutation(len(table)), ends[:-1])
    return parts
