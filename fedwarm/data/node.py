"""Who a client is: its number among the run's, where it keeps what is its own, and what it holds."""

from __future__ import annotations

from dataclasses import dataclass

from fedwarm.core.store import Store
from fedwarm.data.own import Holding
from fedwarm.data.settings import Data


@dataclass(frozen=True)
class Node:
    """Which client this is, of how many, and where it keeps what is its own.

    Attributes:
        own: whether its data set is its own, and nothing of it is dealt.
        classes: those that the run's nodes agreed on, as the server told them; empty where it need not.
    """

    partition: int
    partitions: int
    store: Store
    own: bool = False
    classes: tuple[str, ...] = ()

    def holding(self, data: Data, seed: int) -> Holding:
        """What it holds in a run of these settings."""
        return Holding(data, seed, self.partition, self.partitions, self.own, self.classes)
