"""Who holds which rows: the partitions of a data set over clients, seeded, or refused with the reason.

- iid: the rows are shuffled and cut into equal parts (as flwr-datasets' IidPartitioner does with a shuffled set)
- dirichlet: every class is shared out in proportions drawn from Dirichlet(alpha) (M. Yurochkin et al., Bayesian Nonparametric
  Federated Learning of Neural Networks, ICML 2019, arXiv:1905.12022), by flwr-datasets' DirichletPartitioner
- pathological: every client holds rows of a given number of classes (Q. Li et al., Federated Learning on Non-IID Data Silos: An
  Experimental Study, ICDE 2022, arXiv:2102.02079), by flwr-datasets' PathologicalPartitioner. Client i holds class i modulo
  their number and others drawn at random; a class that nobody drew is in no client's hands
- natural: one client per value of a column of ids, sorted (as flwr-datasets' NaturalIdPartitioner does); with fewer clients than
  ids a seeded choice of them. An id with fewer than two images makes no client
- domain: domain j goes to client j modulo their number; with more clients than domains, each domain is cut into equal parts
  at random for the clients i with i modulo the number of domains = j

Where a share of the data set is public (`data.public-share`), all of this is about the rest of it.

The three that need only a sort are done here, as importing flwr-datasets takes longer than all of them; tests hold them to it.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from fedwarm.core.seeds import derive, numpy_generator
from fedwarm.data.tables import Column, Rows, Table, private_part
from fedwarm.settings.config import Data, SettingError, near

if TYPE_CHECKING:
    from flwr_datasets.partitioner import Partitioner

ID_COLUMNS = ("writer_id", "user_id", "client_id", "domain", "speaker_id", "subject_id", "author_id", "hospital", "center")
FEWEST = 2
NEED = f"each needs at least {FEWEST}, so that one can be held out"


def client_rows(table: Table, data: Data, seed: int, partitions: int) -> list[Rows]:
    """The rows of each client, ascending; none of them is public.

    Raises:
        SettingError: the partition cannot be made.
    """
    table, private = private_part(table, data.public_share)
    if partitions < 1:
        raise SettingError(f"{partitions} clients are too few; at least 1 is needed")
    if partitions * FEWEST > len(table) and data.partition != "natural":
        raise SettingError(
            f"{partitions} clients are too many for the {len(table)} images of {table.name}: {NEED}; "
            f"take at most {len(table) // FEWEST} clients"
        )
    kinds = {"iid": _iid, "dirichlet": _dirichlet, "pathological": _pathological, "natural": _natural, "domain": _domain}
    parts = [np.sort(private[np.asarray(rows, dtype=np.int64)]) for rows in kinds[data.partition](table, data, seed, partitions)]
    for i, rows in enumerate(parts):
        if len(rows) < FEWEST:
            raise SettingError(
                f"data.partition = {data.partition!r} gives client {i} of {partitions} only {len(rows)} of the images of "
                f"{table.name}: {NEED}; take fewer clients or another partition"
            )
    return parts


def natural_clients(table: Table, data: Data) -> int:
    """How many clients `natural` or `domain` makes at most, or by itself."""
    table, _ = private_part(table, data.public_share)
    if data.partition == "domain":
        return len(_present(domain_column(table)))
    return len(_eligible(id_column(table, data)))


def domain_column(table: Table) -> Column:
    """The column `domain`; SettingError where there is none."""
    if "domain" not in table.columns:
        raise SettingError(
            f"data.partition = 'domain' needs a column `domain`; {table.name} has {', '.join(table.columns)}; "
            "choose iid, dirichlet, pathological, or natural with data.partition-by"
        )
    return table.column("domain")


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


def _iid(table: Table, data: Data, seed: int, partitions: int) -> Sequence[Rows]:
    return np.array_split(_shuffled(table, seed), partitions)


def _dirichlet(table: Table, data: Data, seed: int, partitions: int) -> list[Rows]:
    from flwr_datasets.partitioner import DirichletPartitioner

    partitioner = DirichletPartitioner(
        partitions, "label", data.alpha, min_partition_size=FEWEST, shuffle=False, seed=derive(seed, "partition", "dirichlet")
    )
    refusal = (
        f"data.alpha = {data.alpha:g} is too small for {partitions} clients on the {len(table)} images of {table.name}: in every "
        f"draw some client got fewer than {FEWEST}; raise it or take fewer clients"
    )
    return _dealt(partitioner, table, seed, partitions, refusal)


def _pathological(table: Table, data: Data, seed: int, partitions: int) -> list[Rows]:
    from flwr_datasets.partitioner import PathologicalPartitioner

    k, classes = data.classes_per_client, len(_present(table.label))
    if k > classes:
        raise SettingError(f"data.classes-per-client = {k} is more than the {classes} classes of {table.name}; give at most that")
    partitioner = PathologicalPartitioner(
        partitions, "label", k, "first-deterministic", shuffle=False, seed=derive(seed, "partition", "pathological")
    )
    refusal = (
        f"{partitions} clients with data.classes-per-client = {k} need more images of some class than {table.name} has; "
        "take fewer of either"
    )
    return _dealt(partitioner, table, seed, partitions, refusal)


def _natural(table: Table, data: Data, seed: int, partitions: int) -> list[Rows]:
    column = id_column(table, data)
    eligible = _eligible(column)
    if partitions > len(eligible):
        raise SettingError(
            f"{partitions} clients are more than the {len(eligible)} ids of {table.name} with at least {FEWEST} images; "
            f"take at most {len(eligible)} clients"
        )
    chosen = eligible
    if partitions < len(eligible):
        chosen = np.sort(numpy_generator(seed, "partition", "natural").choice(eligible, partitions, replace=False))
    return _grouped(column, chosen)


def _domain(table: Table, data: Data, seed: int, partitions: int) -> list[Rows]:
    column = domain_column(table)
    domains = _grouped(column, _present(column))
    if partitions <= len(domains):
        return [np.concatenate(domains[i::partitions]) for i in range(partitions)]
    draws = numpy_generator(seed, "partition", "domain")
    parts: list[Rows] = [np.empty(0, dtype=np.int64)] * partitions
    for j, rows in enumerate(domains):
        clients = range(j, partitions, len(domains))
        for i, part in zip(clients, np.array_split(draws.permutation(rows), len(clients)), strict=True):
            parts[i] = part
    return parts


def _dealt(partitioner: Partitioner, table: Table, seed: int, partitions: int, refusal: str) -> list[Rows]:
    """What flwr-datasets' partitioner makes of the shuffled rows; its own complaint becomes a SettingError.

    The labels' `select` hands back the row numbers themselves: a Dataset's own hashes them one by one, seconds for a large set.
    """
    from datasets import Dataset

    order = _shuffled(table, seed)
    labels = Dataset.from_dict({"label": table.label.codes[order]}).with_format("arrow")
    labels.select = np.asarray
    partitioner.dataset = labels
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return [order[partitioner.load_partition(i)] for i in range(partitions)]
    except ValueError as error:
        raise SettingError(refusal) from error


def _shuffled(table: Table, seed: int) -> Rows:
    return numpy_generator(seed, "partition").permutation(len(table))


def _present(column: Column) -> Rows:
    return np.unique(column.codes)


def _eligible(column: Column) -> Rows:
    return np.flatnonzero(np.bincount(column.codes, minlength=len(column.names)) >= FEWEST)


def _grouped(column: Column, codes: Rows) -> list[Rows]:
    """The rows of each of the codes, by one sort."""
    order = np.argsort(column.codes, kind="stable")
    starts, ends = (np.searchsorted(column.codes[order], codes, side) for side in ("left", "right"))
    return [order[start:end] for start, end in zip(starts, ends, strict=True)]
