"""The partition `domain`: domain j goes to client j modulo their number.

With more clients than domains, each domain is cut into equal parts at random for the clients i with i modulo the number of
domains = j.
"""

from __future__ import annotations

import numpy as np

from fedwarm.core.seeds import numpy_generator
from fedwarm.data.rows import grouped, present
from fedwarm.data.settings import Data
from fedwarm.data.tables import ALL, Column, Rows, Table
from fedwarm.settings.fields import SettingError
from fedwarm.settings.registry import component


def domain_name(table: Table, data: Data | None = None) -> str:
    """The name of the column of domains, `domain` or else `site`; SettingError where there is none."""
    for name in ("domain", "site"):
        if name in table.columns:
            return name
    raise SettingError(
        f"data.partition = 'domain' needs a column `domain`; {table.name} has {', '.join(table.columns)}; "
        "choose iid, dirichlet, pathological, or natural with data.partition-by"
    )


def domain_column(table: Table) -> Column:
    """The column of domains; SettingError where there is none."""
    return table.column(domain_name(table))


def domains_of(table: Table, data: Data) -> int:
    """How many domains there are; 0 where nobody named any."""
    column = domain_column(table)
    return 0 if column.names == (ALL,) else len(present(column))


@component(
    clients=domains_of,
    tests=domain_name,
    summary="Domain j goes to client j modulo their number.",
)
def domain(table: Table, data: Data, seed: int, partitions: int) -> list[Rows]:
    """The rows of each client."""
    column = domain_column(table)
    domains = grouped(column, present(column))
    if partitions <= len(domains):
        return [np.concatenate(domains[i::partitions]) for i in range(partitions)]
    draws = numpy_generator(seed, "partition", "domain")
    parts: list[Rows] = [np.empty(0, dtype=np.int64)] * partitions
    for j, rows in enumerate(domains):
        clients = range(j, partitions, len(domains))
        for i, part in zip(clients, np.array_split(draws.permutation(rows), len(clients)), strict=True):
            parts[i] = part
    return parts


COMPONENT = domain
