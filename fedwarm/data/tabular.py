"""Tables of numbers as examples: columns of numbers are the inputs, another column or several the targets.

Inputs are `data.feature-columns`, or all columns of numbers that are no targets and no ids. Texts among those asked for, and
single texts in a column of numbers, are refused by file, line and column; columns of text are left out, as the record says.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedwarm.core.inputs import Form
from fedwarm.data.broken import local
from fedwarm.data.frames import Rows as Read
from fedwarm.data.frames import row_values
from fedwarm.data.given import DOMAIN, SPLIT, one_domain
from fedwarm.data.labels import ids, labelled
from fedwarm.data.settings import CLASSES, LABELS, TOKENS, Data
from fedwarm.data.tables import Column, Rows, Table
from fedwarm.settings.fields import SettingError, near

if TYPE_CHECKING:
    from datasets import Dataset

TARGET_COLUMNS = ("label", "labels", "target", "class", "y", "outcome", "diagnosis")
ID_COLUMNS = (
    DOMAIN, "site", SPLIT, "id", "writer_id", "user_id", "client_id", "speaker_id", "subject_id", "patient_id", "author_id",
    "hospital", "center", "author",
)  # fmt: skip
INDEX = re.compile(r"|index|Unnamed: \d+|__index_level_\d+__")
NUMBERS_AND_BITS = ("int", "uint", "float", "double", "bool", "decimal")
PICTURES_ALONE = ("background", "bits", "skip_broken")
Reals = NDArray[np.float64]


def row_table(read: Read, name: str, data: Data) -> Table:
    """A table of numbers.

    Raises:
        SettingError: there are no such columns, or a value is missing, no number or not finite.
    """
    rows, columns = read.rows, tuple(map(str, read.rows.column_names))
    refuse_picture_settings(data, name)
    targets = target_columns(columns, name, data)
    label, answers, kept = targets_of(read, targets, name, data)
    features, left, counted = feature_columns(rows, targets, name, data)
    inputs = numbers(read, features, name)
    kept = kept[whole(inputs[kept], [read.place(int(row)) for row in kept], features, name, data)]
    seen, every = torch.from_numpy(inputs[kept].astype(np.float32)), len(kept) == len(rows)
    alone = not {DOMAIN, "site"} & set(columns)

    def column(wanted: str) -> Column:
        if alone and wanted == DOMAIN:
            return one_domain(len(kept))
        return ids(rows, wanted, name, None if every else kept)

    def remarks() -> list[str]:
        told = [f"rows left out for missing values: {len(rows) - len(kept):,}"] if not every else []
        told += [f"columns of text are no inputs: {', '.join(left)}"] if left else []
        return told + ([f"columns of row numbers are no inputs: {', '.join(counted)}"] if counted else [])

    given = None if answers is None else answers[torch.from_numpy(kept)]
    return Table(
        name, Column(label.codes[kept], label.names), (*columns, DOMAIN) if alone else columns, column,
        lambda k: seen[torch.from_numpy(k)], remarks, Form.of(seen, columns=tuple(features)), given,
    )  # fmt: skip


def refuse_picture_settings(data: Data, name: str) -> None:
    """Refuse settings that are about pictures alone, of a data set without any."""
    for field in PICTURES_ALONE:
        if getattr(data, field) != getattr(Data, field):
            key = f"data.{field.replace('_', '-')}"
            raise SettingError(f"{key} = {getattr(data, field)!r} is about pictures, and {name} holds none; leave it out")


def target_columns(columns: Sequence[str], name: str, data: Data) -> list[str]:
    """The columns of what a model is to answer: those given, else the one with a usual name."""
    given = [part.strip() for part in data.label_column.split(",") if part.strip()]
    for column in given:
        if column not in columns:
            raise SettingError(
                f"data.label-column = {data.label_column!r}: {column!r} is no column of {name}{near(column, list(columns))}; "
                f"it has {', '.join(columns)}"
            )
    if given:
        return given
    lower = {column.lower(): column for column in columns}
    for usual in TARGET_COLUMNS:
        if usual in lower:
            return [lower[usual]]
    raise SettingError(
        f"{name} has no label column that is recognised by its name; it has {', '.join(columns)}; set data.label-column"
    )


def targets_of(read: Read, columns: Sequence[str], name: str, data: Data) -> tuple[Column, torch.Tensor | None, Rows]:
    """Labels (n,), other targets (n, ..), and the rows that have them."""
    if data.targets == TOKENS:
        raise SettingError(f"the task wants texts, and {name} is a table of numbers; take another task or data set")
    if data.targets == CLASSES:
        if len(columns) > 1:
            raise SettingError(f"data.label-column = {data.label_column!r} names several columns; name the one of the classes")
        label, kept = labelled(read.rows, columns[0], name, data.missing_labels)
        codes = np.zeros(len(read.rows), dtype=np.int64)
        codes[kept] = label.codes
        return Column(codes, label.names), None, kept
    found = numbers(read, columns, name)
    missing: NDArray[np.bool_] = np.asarray(np.isnan(found).any(axis=1))
    if missing.any() and data.missing_labels != "drop":
        row = int(np.flatnonzero(missing)[0])
        which = columns[int(np.isnan(found[row]).argmax())]
        raise SettingError(
            f"{name}: target missing in {int(missing.sum())} rows, first {read.place(row)}, column {which!r}; fill it in, or set "
            "data.missing-labels='drop' to leave such rows out"
        )
    if data.targets == LABELS and not np.isin(found[~missing], (0, 1)).all():
        row, place = (int(i) for i in np.argwhere(~np.isin(found, (0, 1)) & ~missing[:, None])[0])
        value = local(f"{found[row, place]:g}", "another number")
        raise SettingError(f"{name}: {read.place(row)}, column {columns[place]!r} holds {value}; labels are 0 or 1")
    answers = torch.from_numpy(found.astype(np.float32))
    flat = len(columns) == 1 and data.targets != LABELS
    label = Column(np.zeros(len(found), dtype=np.int64), tuple(columns))
    return label, answers[:, 0] if flat else answers, np.flatnonzero(~missing)


def feature_columns(rows: Dataset, targets: Sequence[str], name: str, data: Data) -> tuple[list[str], list[str], list[str]]:
    """The columns of the inputs, those of text that are left out, and those that count the rows.

    Raises:
        SettingError: one is not there or is a target, or there are none.
    """
    columns = [str(column) for column in rows.column_names]
    given = [part.strip() for part in data.feature_columns.split(",") if part.strip()]
    for column in given:
        if column not in columns:
            raise SettingError(
                f"data.feature-columns: {column!r} is no column of {name}{near(column, columns)}; it has {', '.join(columns)}"
            )
        if column in targets:
            raise SettingError(f"data.feature-columns: {column!r} is the target of {name} and cannot be an input; leave it out")
    if given:
        return given, [], []
    apart = {*targets, *(c for c in columns if c.lower() in ID_COLUMNS), *filter(None, [data.partition_by, data.group_column])}
    counted = [column for column in columns if column not in apart and _counts(rows, column)]
    others = [column for column in columns if column not in apart and column not in counted]
    text = [column for column in others if not numeric(rows.features[column]) and not _mostly_numbers(rows, column)]
    found = [column for column in others if column not in text]
    if not found:
        raise SettingError(
            f"{name} has no numeric column beside {', '.join(sorted(apart))}, only {', '.join(columns)}; write its "
            "inputs as numbers"
        )
    return found, text, counted


def _counts(rows: Dataset, column: str) -> bool:
    """Whether a column is an index that was written with a table: called as pandas calls one, whole numbers that all differ."""
    if not INDEX.fullmatch(column) or not str(getattr(rows.features[column], "dtype", "")).startswith(("int", "uint")):
        return False
    return bool(row_values(rows, column).is_unique)


def numeric(feature: Any) -> bool:
    """Whether a column's type is one of numbers or truth values; classes with names are none."""
    return str(getattr(feature, "dtype", "")).startswith(NUMBERS_AND_BITS) and not getattr(feature, "names", None)


def textual(feature: Any) -> bool:
    """Whether a column's type is text."""
    return "string" in str(getattr(feature, "dtype", ""))


def _mostly_numbers(rows: Dataset, column: str) -> bool:
    """Whether a column of text would be one of numbers but for some values: a broken one."""
    from pandas import to_numeric

    values = row_values(rows, column)
    known = values.notna()
    return bool(known.any()) and 2 * int(to_numeric(values[known].astype(str), errors="coerce").notna().sum()) >= int(known.sum())


def numbers(read: Read, columns: Sequence[str], name: str) -> Reals:
    """Columns as numbers (n, k), NaN where a value is missing.

    Raises:
        SettingError: a value is no number, or infinite; told by its row and column.
    """
    found = np.empty((len(read.rows), len(columns)))
    for k, column in enumerate(columns):
        values = row_values(read.rows, column)
        if not numeric(read.rows.features[column]):
            values = _parsed(values, read, column, name)
        found[:, k] = np.asarray(values, dtype=np.float64)
        if (infinite := np.isinf(found[:, k])).any():
            raise SettingError(f"{name}: {read.place(int(infinite.argmax()))}, column {column!r} is infinite; mend or remove it")
    return found


def _parsed(values: Any, read: Read, column: str, name: str) -> Any:
    from pandas import to_numeric

    parsed = to_numeric(values.astype("object").where(values.notna(), None).astype(str).where(values.notna()), errors="coerce")
    broken = np.flatnonzero((values.notna() & parsed.isna()).to_numpy())
    if len(broken):
        value = local(repr(str(values.iloc[int(broken[0])])[:40]), "a text")
        raise SettingError(
            f"{name}: {read.place(int(broken[0]))}, column {column!r} holds {value}, which is not a number; "
            "correct it, or name the numeric columns in data.feature-columns"
        )
    return parsed


def whole(inputs: Reals, places: Sequence[str], columns: Sequence[str], name: str, data: Data) -> NDArray[np.bool_]:
    """Which rows (n,) are taken, by `data.missing-values`.

    Raises:
        SettingError: values are missing, and are not to be; no row is left.
    """
    gaps = np.isnan(inputs)
    if not gaps.any() or data.missing_values == "mean":
        return np.ones(len(inputs), dtype=bool)
    if data.missing_values == "refuse":
        row, k = (int(i) for i in np.argwhere(gaps)[0])
        raise SettingError(
            f"{name}: {int(gaps.sum())} values are missing, first {places[row]}, column {columns[k]!r}; fill them in, or set "
            "data.missing-values='mean' (the column's mean) or 'drop' (such rows are left out)"
        )
    kept: NDArray[np.bool_] = np.asarray(~gaps.any(axis=1))
    if not kept.any():
        raise SettingError(f"{name}: every row misses a value; set data.missing-values='mean', or other data.feature-columns")
    return kept
