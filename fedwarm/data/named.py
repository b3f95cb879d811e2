"""Folders in which a CSV file names the pictures and their labels: one row each, a column of files and one of labels.

Files are sought beside the CSV file, or lie where an absolute path says. `test.csv` is the test split, `train.csv` the train
split; a single CSV file of any other name is the train split. Commas, semicolons and tabs are told apart by the first line.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedwarm.settings.fields import SettingError

if TYPE_CHECKING:
    from datasets import Dataset

ENDS, SEPARATORS = (".csv", ".tsv"), ",;\t"
FILE_COLUMNS = (
    "file_name", "filename", "file", "path", "file_path", "filepath", "image_path", "image", "img", "picture", "photo",
)  # fmt: skip
DESCRIBED = "metadata"  # which the datasets library reads itself
TRAIN = "train"
INT, REAL = re.compile(r"-?(0|[1-9][0-9]{0,17})"), re.compile(r"-?(0|[1-9][0-9]{0,17})(\.[0-9]+)?")


@dataclass(frozen=True)
class Names:
    """A CSV file that names pictures: where it lies, what stands between its columns, and which of them names files."""

    path: Path
    separator: str
    column: str


def named_pictures(folder: str, files: Sequence[str], splits: Mapping[str, str], name: str) -> dict[str, Dataset]:
    """The splits of a folder whose CSV files name its pictures, with these as column `image`; none where it has no such files.

    Args:
        folder: where it is.
        files: below it.
        splits: what splits are called, and which they are.
        name: how messages call it.

    Raises:
        SettingError: a CSV file cannot be read, or it cannot be told which split it is.
    """
    tables = [file for file in files if file.lower().endswith(ENDS) and Path(file).stem.lower() != DESCRIBED]
    found = [names for file in tables if (names := _names(Path(folder, file))) is not None]
    if len(found) == 1 and found[0].path.stem.lower() not in splits:
        return {TRAIN: _read(found[0], name)}
    by_split: dict[str, Names] = {}
    for names in found:
        split = splits.get(names.path.stem.lower(), "")
        if not split or split in by_split:
            listed = ", ".join(os.path.relpath(each.path, folder) for each in found)
            raise SettingError(
                f"{name}: several files name its pictures ({listed}); call them train.csv and test.csv, or leave one"
            )
        by_split[split] = names
    return {split: _read(names, name) for split, names in by_split.items()}


def _names(path: Path) -> Names | None:
    """What a CSV file's first two lines tell; None where it names no files that are there."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            head = stream.readline()
            separator = max(SEPARATORS, key=head.count)
            columns = next(csv.reader([head], delimiter=separator), [])
            first = next(csv.reader(stream, delimiter=separator), [])
    except (OSError, ValueError, csv.Error):
        return None
    values = {column.strip().lower(): (column, value) for column, value in zip(columns, first, strict=False)}
    for usual in FILE_COLUMNS:
        if usual in values and values[usual][1] and (path.parent / values[usual][1].strip()).is_file():
            return Names(path, separator, values[usual][0].strip())
    return None


def _read(names: Names, name: str) -> Dataset:
    """The rows, their files as pictures that are not decoded."""
    from datasets import Dataset, Image

    columns = _columns(names, name)
    files = [value and str(names.path.parent / value) for value in columns.pop(names.column)]
    others = {column: _typed(values) for column, values in columns.items() if column != "image"}
    return Dataset.from_dict({"image": files, **others}).cast_column("image", Image(decode=False))


def _columns(names: Names, name: str) -> dict[str, list[str | None]]:
    """The values of each column without blanks around them; None where there is none.

    Raises:
        SettingError: it is no text in UTF-8, or a row has more or fewer fields than the first one.
    """
    what = f"{name}: {names.path.name}"
    try:
        with names.path.open(encoding="utf-8-sig", newline="") as stream:
            rows = [row for row in csv.reader(stream, delimiter=names.separator) if row]
    except (OSError, ValueError, csv.Error) as error:
        raise SettingError(f"{what} cannot be read: {error}; save it as CSV in UTF-8") from error
    odd = next((number for number, row in enumerate(rows) if len(row) != len(rows[0])), None)
    if odd is not None:
        raise SettingError(
            f"{what} has {len(rows[odd])} fields in row {odd}, and {len(rows[0])} in its first line; correct that row"
        )
    return {head.strip(): [value.strip() or None for value in values] for head, *values in zip(*rows, strict=True)}


def _typed(values: Sequence[str | None]) -> list[Any]:
    """Numbers where all values are numbers as they are usually written, so that 007 stays a name; else text."""
    known = [value for value in values if value is not None]
    kind = int if all(map(INT.fullmatch, known)) else float if all(map(REAL.fullmatch, known)) else str
    return [None if value is None else kind(value) for value in values]
