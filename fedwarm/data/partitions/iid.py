"""The partition `iid`: the rows are shuffled and cut into equal parts.

So does flwr-datasets' IidPartitioner with a shuffled set.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedwarm.data.partitions import ALIKE
from fedwarm.data.rows import shuffled
from fedwarm.data.settings import Data
from fedwarm.data.tables import Rows, Table
from fedwarm.settings.registry import component


@component(tests=ALIKE, summary="Every client holds an equal share of the rows, drawn at random.")
def iid(table: Table, data: Data, seed: int, partitions: int) -> Sequence[Rows]:
    """The rows of each client."""
    return np.array_split(shuffled(table, seed), partitions)


COMPONENT = iid
