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


def private_part(table: Table, share: float) -> tuple[Table, Rows]:
    """What clients may hold: the table without its public rows, and the rows' numbers in the whole table (n,)."""
    kept = np.ones(len(table), dtype=bool)
    kept[public_rows(table, share)] = False
    rows = np.flatnonzero(kept)
    if len(rows) == len(table):
        return table, rows

    def part(column: Column) -> Column:
        return Column(column.codes[rows], column.names)

    whole = table.originals
    private = replace(
        table, name=f"{table.name} without its public part", label=part(table.label),
        column=lambda column: part(table.column(column)), images=lambda k: table.images(rows[k]), remarks=list,
        targets=None if table.targets is None else table.targets[torch.from_numpy(rows)],
        originals=None if whole is None else lambda k, side: whole(rows[k], side),
    )  # fmt: skip
    return private, rows
