"""What every data set looks like to the partitions: labels in memory, columns of ids and inputs on demand.

A share of every class can be public: no client holds it under any partition, and it is the same in every run, so that whatever
was trained on it (a foundation, a first model) has seen nothing that a client holds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedwarm.core.inputs import Form
from fedwarm.core.seeds import numpy_generator
from fedwarm.settings.fields import SettingError, near

PUBLIC_SEED = 2405
ALL = "all"  # the one domain of examples of which nothing is known but that they belong together
Rows = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Column:
    """A column of names: `codes` (n,) are indices into `names`."""

    codes: Rows
    names: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Table:
    """A set of n examples: pictures with classes where nothing else is said.

    Attributes:
        name: as the user gave it.
        label: labels (n,) and class names. Where `targets` are no classes: 0 (n,), and the names of what a model answers.
        columns: the columns there are.
        column: reads a column of ids by name; SettingError where its values cannot be ids.
        images: gives the inputs of rows (k,): uint8 (k, 3, S, S) of pictures, else (k, *form.shape) of the form's dtype.
        remarks: what a reader of the record should know of how it was read.
        form: what one input looks like; None: a picture of the side `data.image-size`.
        targets: (n, ..) what a model is to answer, where that is no class: float32 numbers, or int64 tokens; None: the labels.
        originals: gives the pictures of rows in their own proportions, the shorter side that many pixels long: uint8 (3, h, w)
            each; None: there are no others than `images`.
    """

    name: str
    label: Column
    columns: tuple[str, ...]
    column: Callable[[str], Column]
    images: Callable[[Rows], Tensor]
    remarks: Callable[[], list[str]] = list
    form: Form | None = None
    targets: Tensor | None = None
    originals: Callable[[Rows, int], list[Tensor]] | None = None

    def __len__(self) -> int:
        return len(self.label.codes)

    @property
    def classed(self) -> bool:
        """Whether the targets are classes."""
        return self.targets is None

    @property
    def features(self) -> tuple[str, ...]:
        """Of a table of numbers, the names of its columns, which `data.standardise` is about."""
        return self.form.columns if self.form else ()

    @property
    def pictured(self) -> bool:
        """Whether the inputs are RGB pictures."""
        return self.form is None or self.form.pictures

    def form_at(self, size: int) -> Form:
        """What one input looks like, where pictures have that side."""
        return self.form or Form.picture(size)

    def answers(self, rows: Rows) -> Tensor:
        """The targets of rows (k,): classes int64 (k,), or (k, ..) as `targets` are."""
        return torch.from_numpy(self.label.codes[rows]) if self.targets is None else self.targets[torch.from_numpy(rows)]


def coded(values: Sequence[str] | Sequence[int]) -> Column:
    """Numbers for the sorted distinct values, named by their text."""
    names: list[Any] = sorted(set(values))
    codes = {name: code for code, name in enumerate(names)}
    return Column(np.array([codes[value] for value in values], dtype=np.int64), tuple(str(name) for name in names))


def public_rows(table: Table, share: float) -> Rows:
    """The rows that are public, ascending: of every class the share, rounded, at random; at least one image of it stays private.

    A function of the table's labels and the share alone, by a seed of its own; a smaller share is a part of a larger one.
    """
    order = np.argsort(table.label.codes, kind="stable")
    sizes = np.bincount(table.label.codes, minlength=len(table.label.names))
    chosen = [np.empty(0, dtype=np.int64)]
    for code, rows in enumerate(np.split(order, np.cumsum(sizes)[:-1])):
        take = min(round(share * len(rows)), len(rows) - 1)
        if take > 0:
            chosen.append(numpy_generator(PUBLIC_SEED, "public", code).permutation(rows)[:take])
    return np.sort(np.concatenate(chosen))


def part_of(table: Table, rows: Rows, name: str) -> Table:
    """Some rows of a table (k,) as a table of their own; what is remarked of the whole is not of the part."""

    def part(column: Column) -> Column:
        return Column(column.codes[rows], column.names)

    whole = table.originals
    return replace(
        table, name=name, label=part(table.label), column=lambda column: part(table.column(column)),
        images=lambda k: table.images(rows[k]), remarks=list,
        targets=None if table.targets is None else table.targets[torch.from_numpy(rows)],
        originals=None if whole is None else lambda k, side: whole(rows[k], side),
    )  # fmt: skip


def public_of(table: Table, share: float, where: str = "") -> Rows:
    """The rows that are public, ascending: those that a filter names, all of them, else `public_rows` by the share.

    Args:
        where: `column=value` or `column=value,value`; empty: there is no filter.

    Raises:
        SettingError: the filter cannot be read, or names no column or value of the table.
    """
    if not where:
        return public_rows(table, share)
    name, equals, values = (part.strip() for part in where.partition("="))
    wanted = [value.strip() for value in values.split(",") if value.strip()]
    if not (name and equals and wanted):
        raise SettingError(f"data.public-where = {where!r} must be column=value, with commas between several values")
    column = table.column(name)
    for value in wanted:
        if value not in column.names:
            raise SettingError(
                f"data.public-where: column {name!r} of {table.name} has no {value!r}{near(value, list(column.names))}; "
                f"it has {', '.join(column.names[:20])}"
            )
    chosen = [code for code, each in enumerate(column.names) if each in wanted]
    return np.flatnonzero(np.isin(column.codes, chosen))


def private_part(table: Table, share: float, where: str = "") -> tuple[Table, Rows]:
    """What clients may hold: the table without its public rows, and the rows' numbers in the whole table (n,).

    Raises:
        SettingError: nothing is left.
    """
    kept = np.ones(len(table), dtype=bool)
    kept[public_of(table, share, where)] = False
    rows = np.flatnonzero(kept)
    if len(rows) == len(table):
        return table, rows
    if not len(rows):
        raise SettingError(f"data.public-where = {where!r} leaves clients nothing of {table.name}; name fewer values")
    return part_of(table, rows, f"{table.name} without its public part"), rows
