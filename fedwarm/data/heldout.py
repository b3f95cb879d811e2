"""Which examples are held out: a random part in the classes' proportions, of rows or of groups that belong together.

A group is what has one value of `data.group-column`, such as all pictures of a patient: all of it is held out, or none.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fedwarm.data.settings import Data
from fedwarm.data.tables import Rows, Table
from fedwarm.settings.fields import SettingError


def groups_of(table: Table, data: Data) -> Rows | None:
    """The group of each row (n,), by number; None where rows stand for themselves.

    Raises:
        SettingError: there is no such column, or it is empty in some rows.
    """
    if not data.group_column:
        return None
    if data.public_share:
        raise SettingError(
            f"data.public-share = {data.public_share:g} makes single rows public, and data.group-column = {data.group_column!r} "
            "keeps groups together; say in data.public-where what is public"
        )
    return table.column(data.group_column).codes


def check_groups(groups: Rows, parts: Sequence[Rows], data: Data) -> None:
    """See that a group's rows are all one client's, and that each client has two groups at least.

    Raises:
        SettingError: a client would train on what another is tested on, or has nothing to hold out.
    """
    column = f"data.group-column = {data.group_column!r}"
    own = [np.unique(groups[rows]) for rows in parts]
    found, clients = np.unique(np.concatenate(own), return_counts=True)
    if spread := int((clients > 1).sum()):
        raise SettingError(
            f"{column}: {spread} of its {len(found)} values are dealt to several clients, so that one would train on what "
            "another is tested on; take a partition that keeps them together, e.g. data.partition = 'natural' with "
            "data.partition-by"
        )
    alone = next((client for client, values in enumerate(own) if len(values) < 2), None)
    if alone is not None:
        raise SettingError(
            f"{column}: client {alone} holds rows of one value alone, and one is needed to train on and one to be held out; take "
            "a partition that gives each client several, or leave data.group-column empty"
        )


def held(labels: Rows, rows: Rows, share: float, draws: np.random.Generator, groups: Rows | None) -> NDArray[np.bool_]:
    """Which of a client's rows (k,) are held out: a share, in the classes' proportions, one at least of two.

    With groups (n,) that is said of groups, each of the class that most of its rows have: all rows of one are held out, or none.
    """
    if groups is None:
        return draw(labels[rows], _part(len(rows), share), draws)
    own, codes = np.unique(groups[rows], return_inverse=True)
    classes, usual = int(labels.max()) + 1, np.zeros(len(own), dtype=np.int64)
    pairs, counts = np.unique(codes * classes + labels[rows], return_counts=True)
    order = np.argsort(counts, kind="stable")
    usual[pairs[order] // classes] = pairs[order] % classes  # of a group's classes the one that comes last stays
    return draw(usual, _part(len(own), share), draws)[codes]


def _part(count: int, share: float) -> int:
    return max(0, min(max(round(count * share), 1), count - 1))


def draw(labels: Rows, take: int, draws: np.random.Generator) -> NDArray[np.bool_]:
    """Which examples to take away: a random part in the classes' proportions that leaves of each class what it can.

    Every class gives its share `take * n_c / n` rounded down; what is missing comes one by one from the class that is furthest
    below its share, where a class gives its last example only if no other has two left.

    Args:
        labels: the examples' labels (n,).
        take: how many, at most n.
        draws: decides which examples, and between equal classes.
    """
    classes, codes, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    share = take * sizes / len(labels)
    quota = np.floor(share).astype(np.int64)
    tie = draws.permutation(len(classes))
    while quota.sum() < take:
        order = np.lexsort((tie, quota - share, sizes - quota < 2, sizes == quota))
        quota[order[0]] += 1
    taken = np.zeros(len(labels), dtype=bool)
    for code, count in enumerate(quota):
        taken[draws.permutation(np.flatnonzero(codes == code))[:count]] = True
    return taken
