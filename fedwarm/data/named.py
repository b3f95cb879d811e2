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
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedwarm.data.broken import local
from fedwarm.settings.fields import SettingError

if TYPE_CHECKING:
    from datasets import Dataset

ENDS, SEPARATORS = (".csv", ".tsv"), ",;\t"
PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif", ".webp")
FILE_COLUMNS = (
    "file_name", "filename", "file", "path", "file_path", "filepath", "image_path", "image", "img", "picture", "photo",
    "image_id", "image_name",
)  # fmt: skip
LOOKED_AT = 50  # rows, of which one has to name a file that is there
DESCRIBED = "metadata"  # which the datasets library reads itself
TRAIN = "train"
INT, REAL = re.compile(r"-?(0|[1-9][0-9]{0,17})"), re.compile(r"-?(0|[1-9][0-9]{0,17})(\.[0-9]+)?")


@dataclass(frozen=True)
class Names:
    """A CSV file that names pictures: where it lies, what stands between its columns, and which of them names files.

    `first` is the first of its names where none of those that were looked at is there.
    """

    path: Path
    separator: str
    column: str
    first: str = ""


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
    looked = [names for file in tables if (names := _names(Path(folder, file))) is not None]
    found = [names for names in looked if not names.first]
    if not found and looked and any(file.lower().endswith(PICTURES) for file in files):
        first, column = local(repr(looked[0].first), "a picture"), looked[0].column
        raise SettingError(
            f"{name}: {local(looked[0].path.name, 'a CSV file')} names {first} in column {column!r}, and there is no such file; "
            "give paths relative to the CSV file, with their endings, or take the CSV file out if folders are the classes"
        )
    if len(found) == 1 and found[0].path.stem.lower() not in splits:
        return {TRAIN: _read(found[0], name)}
    by_split: dict[str, Names] = {}
    for names in found:
        split = splits.get(names.path.stem.lower(), "")
        if not split or split in by_split:
            listed = local(" (" + ", ".join(os.path.relpath(each.path, folder) for each in found) + ")")
            raise SettingError(f"{name}: several files name its pictures{listed}; call them train.csv and test.csv, or leave one")
        by_split[split] = names
    return {split: _read(names, name) for split, names in by_split.items()}


def _names(path: Path) -> Names | None:
    """What a CSV file's first lines tell; None where no column is called as one of files is."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            head = stream.readline()
            separator = max(SEPARATORS, key=head.count)
            columns = [column.strip() for column in next(csv.reader([head], delimiter=separator), [])]
            rows = [row for row in islice(csv.reader(stream, delimiter=separator), LOOKED_AT) if row]
    except (OSError, ValueError, csv.Error):
        return None
    lower = {column.lower(): place for place, column in reversed([*enumerate(columns)])}
    asked = [lower[usual] for usual in FILE_COLUMNS if usual in lower]
    given = {place: [row[place].strip() for row in rows if place < len(row) and row[place].strip()] for place in asked}
    for place, values in given.items():
        if any(_file(path, value).is_file() for value in values):
            return Names(path, separator, columns[place])
    missing = [(place, values[0]) for place, values in given.items() if values]
    return Names(path, separator, columns[missing[0][0]], missing[0][1]) if missing else None


def _file(table: Path, value: str) -> Path:
    """The file that a table names, on whatever system it was written."""
    found = table.parent / value
    return found if "\\" not in value or found.is_file() else table.parent / value.replace("\\", "/")


def _read(names: Names, name: str) -> Dataset:
    """The rows, their files as pictures that are not decoded."""
    from datasets import Dataset, Image

    columns = _columns(names, name)
    files = [value and str(_file(names.path, value)) for value in columns.pop(names.column)]
    others = {column: _typed(values) for column, values in columns.items() if column != "image"}
    return Dataset.from_dict({"image": files, **others}).cast_column("image", Image(decode=False))


def _columns(names: Names, name: str) -> dict[str, list[str | None]]:
    """The values of each column without blanks around them; None where there is none.

    Raises:
        SettingError: it is no text in UTF-8, or a row has more or fewer fields than the first one.
    """
    try:
        with names.path.open(encoding="utf-8-sig", newline="") as stream:
            rows = [row for row in csv.reader(stream, delimiter=names.separator) if row]
    except (OSError, ValueError, csv.Error) as error:
        what = local(f"{names.path.name} cannot be read: {error}", "a CSV file cannot be read")
        raise SettingError(f"{name}: {what}; save it as CSV in UTF-8") from error
    odd = next((number for number, row in enumerate(rows) if len(row) != len(rows[0])), None)
    if odd is not None:
        what = f"{name}: {local(names.path.name, 'a CSV file')}"
        raise SettingError(
            f"{what} has {len(rows[odd])} fields in row {odd}, and {len(rows[0])} in its first line; correct that row"
        )
    return {head.strip(): [value.strip() or None for value in values] for head, *values in zip(*rows, strict=True)}


def _typed(values: Sequence[str | None]) -> list[Any]:
    """Numbers where all values are numbers as they are usually written, so that 007 stays a name; else text."""
    known = [value for value in values if value is not None]
    kind = int if all(map(INT.fullmatch, known)) else float if all(map(REAL.fullmatch, known)) else str
    return [None if value is None else kind(value) for value in values]
