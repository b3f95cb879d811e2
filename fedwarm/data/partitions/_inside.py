"""Labels skewed inside domains: each domain goes to clients of its own, among whom another partition deals it by classes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from fedwarm.core.seeds import derive
from fedwarm.data.partitions.domain import domain_column
from fedwarm.data.rows import grouped, present
from fedwarm.data.settings import Data
from fedwarm.data.tables import Rows, Table, part_of

Deal = Callable[[Table, Data, int, int], list[Rows]]


def inside_domains(deal: Deal, table: Table, data: Data, seed: int, partitions: int) -> list[Rows]:
    """The rows of each client; domain j is dealt among the clients i with i modulo the number of domains = j.

    With fewer clients than domains, client i is dealt the union of the domains i, i + clients, ..

    Raises:
        SettingError: a domain cannot be dealt so.
    """
    column = domain_column(table)
    domains = grouped(column, present(column))
    if partitions < len(domains):
        domains = [np.concatenate(domains[i::partitions]) for i in range(partitions)]
    parts: list[Rows] = [np.empty(0, dtype=np.int64)] * partitions
    for j, rows in enumerate(domains):
        clients = range(j, partitions, len(domains))
        inner = part_of(table, rows, f"domain {j} of {table.name}")
        for i, part in zip(clients, deal(inner, data, derive(seed, "partition", "inside", j), len(clients)), strict=True):
            parts[i] = rows[part]
    return parts
