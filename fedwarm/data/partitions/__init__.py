"""Who holds which rows: the partitions of a data set over clients, seeded, or refused with the reason.

A partition is a function (table, data settings, seed, number of clients) -> rows of each client. Two facts may stand beside it
(`registry.component`): `clients`, a function (table, data settings) -> how many clients it makes by itself, and `least`, False
where some rows are in nobody's hands. Where a share of the data set is public (`data.public-share`), all of this is about the
rest of it. Those that need only a sort are done here, as importing flwr-datasets takes longer than all of them; tests hold them
to it.
"""

from __future__ import annotations

import numpy as np

from fedwarm.data.rows import FEWEST, NEED
from fedwarm.data.settings import Data
from fedwarm.data.tables import Rows, Table, private_part
from fedwarm.settings.fields import SettingError
from fedwarm.settings.kinds import PARTITIONS


def client_rows(table: Table, data: Data, seed: int, partitions: int) -> list[Rows]:
    """The rows of each client, ascending; none of them is public.

    Raises:
        SettingError: the partition cannot be made.
    """
    table, private = private_part(table, data.public_share)
    if partitions < 1:
        raise SettingError(f"{partitions} clients are too few; at least 1 is needed")
    deal = PARTITIONS.load(data.partition)
    if partitions * FEWEST > len(table) and getattr(deal, "least", True):
        raise SettingError(
            f"{partitions} clients are too many for the {len(table)} images of {table.name}: {NEED}; "
            f"take at most {len(table) // FEWEST} clients"
        )
    parts = [np.sort(private[np.asarray(rows, dtype=np.int64)]) for rows in deal(table, data, seed, partitions)]
    for i, rows in enumerate(parts):
        if len(rows) < FEWEST:
            raise SettingError(
                f"data.partition = {data.partition!r} gives client {i} of {partitions} only {len(rows)} of the images of "
                f"{table.name}: {NEED}; take fewer clients or another partition"
            )
    return parts


def own_clients(table: Table, data: Data) -> int | None:
    """How many clients the partition makes by itself, and at most; None where it makes as many as are asked for."""
    count = getattr(PARTITIONS.load(data.partition), "clients", None)
    return None if count is None else count(private_part(table, data.public_share)[0], data)
