"""The partition `natural`: one client per value of a column of ids, sorted (as flwr-datasets' NaturalIdPartitioner does).

With fewer clients than ids it is a seeded choice of them. An id with fewer than two images makes no client.
"""

from __future__ import annotations

import numpy as np

from fedwarm.core.seeds import numpy_generator
from fedwarm.data.rows import FEWEST, eligible, grouped
from fedwarm.data.settings import Data
from fedwarm.data.tables import Column, Rows, Table
from fedwarm.settings.fields import SettingError, near
from fedwarm.settings.registry import component

ID_COLUMNS = ("writer_id", "user_id", "client_id", "domain", "speaker_id", "subject_id", "author_id", "hospital", "center",
              "site", "author")  # fmt: skip


def id_column(table: Table, data: Data) -> Column:
    """The column of the natural partition."""
    return table.column(id_name(table, data))


def id_name(table: Table, data: Data) -> str:
    """The name of the natural partition's column: the one given, else the first of the usual names."""
    if data.partition_by:
        if data.partition_by not in table.columns:
            raise SettingError(
                f"data.partition-by = {data.partition_by!r} is no column of {table.name}"
                f"{near(data.partition_by, list(table.columns))}; it has {', '.join(table.columns)}"
            )
        return data.partition_by
    for name in ID_COLUMNS:
        if name in table.columns:
            return name
    raise SettingError(
        f"data.partition = 'natural' needs a column of ids; {table.name} has {', '.join(table.columns)}; "
        "set data.partition-by to one of them, or choose iid, dirichlet or pathological"
    )


@component(
    clients=lambda table, data: len(eligible(id_column(table, data))),
    least=False,
    whole=False,
    tests=id_name,
    uses=("data.partition-by",),
    summary="One client for each value of a column of ids (data.partition-by).",
)
def natural(table: Table, data: Data, seed: int, partitions: int) -> list[Rows]:
    """The rows of each client."""
    column = id_column(table, data)
    able = eligible(column)
    if partitions > len(able):
        raise SettingError(
            f"{partitions} clients are more than the {len(able)} ids of {table.name} with at least {FEWEST} images; "
            f"take at most {len(able)} clients"
        )
    chosen = able
    if partitions < len(able):
        chosen = np.sort(numpy_generator(seed, "partition", "natural").choice(able, partitions, replace=False))
    return grouped(column, chosen)


COMPONENT = natural
