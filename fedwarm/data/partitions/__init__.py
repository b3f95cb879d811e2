"""Who holds which rows: the partitions of a data set over clients, seeded, or refused with the reason.

A partition is a function (table, data settings, seed, number of clients) -> rows of each client; it finds the settings of its own
group by `data.of(Group)`. Facts may stand beside it (`registry.component`):

- `clients`, a function (table, data settings) -> how many clients it makes by itself, and at most
- `least`, False where it says itself how many clients are too many
- `whole`, False where some rows may be in nobody's hands
- `classed`, True where it deals by classes: targets that are none are refused
- `pictures`, True where it looks at pictures: other inputs are refused
- `tests`, by what a test split is dealt, so that a client is tested on what it trains on (see `fedwarm.data.testing`): BY_CLASS,
  where nothing is said; ALIKE, all images together; or a function (table, data settings) -> the name of a column

Where a share of the data set is public (`data.public-share`), all of this is about the rest of it. Those that need only a sort
are done here, as importing flwr-datasets takes longer than all of them; tests hold them to it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fedwarm.data.rows import FEWEST, NEED
from fedwarm.data.settings import WHOLE, Data
from fedwarm.data.tables import Rows, Table, private_part
from fedwarm.settings.fields import SettingError
from fedwarm.settings.foreign import outcome
from fedwarm.settings.kinds import PARTITIONS
from fedwarm.settings.registry import component

BY_CLASS, ALIKE = "class", "alike"


@component(tests=ALIKE)
def whole(table: Table, data: Data, seed: int, partitions: int) -> list[Rows]:
    """All rows, in one client's hands."""
    return [np.arange(len(table))]


def partition_of(data: Data) -> Any:
    """The partition of the settings."""
    return whole if data.partition == WHOLE else PARTITIONS.load(data.partition)


def client_rows(table: Table, data: Data, seed: int, partitions: int) -> list[Rows]:
    """The rows of each client, ascending; none of them is public.

    Raises:
        SettingError: the partition cannot be made.
    """
    table, private = private_part(table, data.public_share, data.public_where)
    if partitions < 1:
        raise SettingError(f"{partitions} clients are too few; at least 1 is needed")
    deal = partition_of(data)
    _refuse_unlike(table, data, deal)
    if partitions * FEWEST > len(table) and getattr(deal, "least", True):
        raise SettingError(
            f"{partitions} clients are too many for the {len(table)} images of {table.name}: {NEED}; "
            f"take at most {len(table) // FEWEST} clients"
        )
    parts = [np.sort(private[rows]) for rows in _dealt(deal, table, data, seed, partitions)]
    for i, rows in enumerate(parts):
        if len(rows) < FEWEST:
            raise SettingError(
                f"data.partition = {data.partition!r} gives client {i} of {partitions} only {len(rows)} of the images of "
                f"{table.name}: {NEED}; take fewer clients or another partition"
            )
    return parts


def _dealt(deal: Any, table: Table, data: Data, seed: int, partitions: int) -> list[Rows]:
    """The rows of each client; a partition of somebody's own may fail, or give others than there are."""
    where = f"data.partition = {data.partition!r}"
    found = outcome(where, lambda: [np.asarray(rows, dtype=np.int64) for rows in deal(table, data, seed, partitions)])
    if len(found) != partitions:
        raise SettingError(f"{where} deals to {len(found)} clients, and there are {partitions}; give rows for each")
    if any(rows.size and (rows.min() < 0 or rows.max() >= len(table)) for rows in found):
        raise SettingError(f"{where} deals rows that are none of the {len(table)}; number them from 0")
    return found


def _refuse_unlike(table: Table, data: Data, deal: Any) -> None:
    """Refuse a partition that needs classes or pictures of a data set that has none."""
    for fact, has, what in (
        ("classed", table.classed, "targets are classes"),
        ("pictures", table.pictured, "inputs are pictures"),
    ):
        if getattr(deal, fact, False) and not has:
            raise SettingError(
                f"data.partition = {data.partition!r} needs data whose {what}, and {table.name} has others; choose "
                "iid, natural or domain"
            )


def own_clients(table: Table, data: Data) -> int | None:
    """How many clients the partition makes by itself, and at most; None where it makes as many as are asked for."""
    count = getattr(partition_of(data), "clients", None)
    return None if count is None else count(private_part(table, data.public_share, data.public_where)[0], data)
