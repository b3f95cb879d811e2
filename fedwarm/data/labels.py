"""Columns of labels and ids as numbers and names; rows without a label are refused, or left out by `data.missing-labels`.

Missing is what says nothing: null, NaN, an empty text, a ClassLabel below 0, and -1 in a column whose other numbers are 0 and
more, as data sets of the Hub have it. Whole numbers that are stored as floats, as tables with gaps store them, are taken as such.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fedwarm.data.broken import local
from fedwarm.data.tables import Column, Rows, coded
from fedwarm.settings.fields import SettingError

if TYPE_CHECKING:
    from datasets import Dataset

TYPES = ("string", "large_string", "bool", "int", "uint", "float", "null")
NONE = -1


def labelled(rows: Dataset, column: str, name: str, missing: str) -> tuple[Column, Rows]:
    """The labels of the rows that have one, and these rows' numbers, ascending.

    Args:
        rows: the data set.
        column: where its labels are.
        name: how messages call the data set.
        missing: `refuse` or `drop` rows without a label, or `keep` -1 as a class.

    Raises:
        SettingError: the column holds no labels, or rows without one that are not to be left out.
    """
    values, classes = _values(rows, column, name)
    gaps = _gaps(values, classes, missing == "keep")
    if gaps and missing != "drop":
        row, what = gaps[0]
        other = ", or 'keep' if -1 is a class" if what == str(NONE) and classes is None else ""
        raise SettingError(
            f"{name}: label missing in {len(gaps)} row{'s' * (len(gaps) > 1)}, first row {row} ({what} in column {column!r}); "
            f"set data.missing-labels='drop' to leave them out{other}"
        )
    kept = np.ones(len(values), dtype=bool)
    kept[[row for row, _ in gaps]] = False
    if not kept.any():
        raise SettingError(f"{name}: no row has a label in column {column!r}; set data.label-column to another")
    left = np.flatnonzero(kept)
    return _column([values[row] for row in left.tolist()], classes), left


def ids(rows: Dataset, column: str, name: str, kept: Rows | None = None) -> Column:
    """A column of ids, of all rows or those that are kept; SettingError where it holds none, or one is missing."""
    values, classes = _values(rows, column, name)
    if kept is not None:
        values = [values[row] for row in kept.tolist()]
    missing = sum(value is None or (classes is not None and value < 0) for value in values)
    if missing:
        raise SettingError(f"column {column!r} of {name} is empty in {missing} of {len(values)} rows; leave those out first")
    return _column(values, classes)


def _values(rows: Dataset, column: str, name: str) -> tuple[list[Any], tuple[str, ...] | None]:
    """A column's values, None where there is none, floats as whole numbers; and the names of its classes, where it has them."""
    if column not in rows.column_names:
        raise SettingError(f"{name} has no column {column!r}; name one of its columns: {', '.join(rows.column_names)}")
    feature = rows.features[column]
    dtype = str(getattr(feature, "dtype", ""))
    if not dtype.startswith(TYPES):
        raise SettingError(f"column {column!r} of {name} holds {feature}; labels and ids must be text or whole numbers")
    values = list(rows.with_format(None)[column][:])
    if dtype.startswith("float"):
        values = [None if value is None or math.isnan(value) else value for value in values]
        broken = next((row for row, v in enumerate(values) if v is not None and not (math.isfinite(v) and v == int(v))), None)
        if broken is not None:
            raise SettingError(
                f"column {column!r} of {name} holds {local(repr(values[broken]), 'a fraction')} in row {broken}; "
                "labels and ids must be text or whole numbers"
            )
        values = [None if value is None else int(value) for value in values]
    classes = getattr(feature, "names", None)
    if classes is not None:
        beyond = next((row for row, v in enumerate(values) if v is not None and v >= len(classes)), None)
        if beyond is not None:
            raise SettingError(
                f"column {column!r} of {name} holds class {values[beyond]} in row {beyond}, but names {len(classes)} classes, "
                "counted from 0"
            )
    return values, None if classes is None else tuple(classes)


def _gaps(values: Sequence[Any], classes: tuple[str, ...] | None, keep: bool) -> list[tuple[int, str]]:
    """Rows without a label, ascending, and what stands there instead."""
    whole = [v for v in values if isinstance(v, int) and not isinstance(v, bool) and v != NONE]
    signs = not keep and bool(whole) and min(whole) >= 0
    found = []
    for row, value in enumerate(values):
        if value is None:
            found.append((row, "null"))
        elif isinstance(value, str):
            if not value.strip():
                found.append((row, "an empty text"))
        elif (classes is not None and value < 0) or (signs and value == NONE):
            found.append((row, str(value)))
    return found


def _column(values: Sequence[Any], classes: tuple[str, ...] | None) -> Column:
    return coded(values) if classes is None else Column(np.asarray(values, dtype=np.int64), classes)
