"""Tables in files: one CSV or parquet file, or a folder of CSV files, of which each may be a site's; read by pandas.

A folder of CSV files is all train, but for files called `test.csv`, `validation.csv` and the like, which are splits. Where it
holds several files that are none, the column `site` says which file a row is from, unless the files have such a column.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fedwarm.data.broken import local, nameless
from fedwarm.data.folders import NAMED, TRAIN, listed
from fedwarm.data.named import ENDS, SEPARATORS, named_pictures
from fedwarm.settings.fields import SettingError

if TYPE_CHECKING:
    from datasets import Dataset
    from pandas import DataFrame

SITE, PARQUET = "site", ".parquet"
NOTES = (".txt", ".md", ".rst", ".pdf", ".docx", ".xlsx", ".html", ".json", ".yml", ".yaml", ".xml", ".log", ".py", ".r", ".sh")
UNNAMED = ("license", "readme", "notes", "makefile")
"""What may lie beside tables and is none."""
BELOW = 2  # the first row's line in a file whose first line names the columns


@dataclass(frozen=True)
class Rows:
    """The rows of a split.

    Attributes:
        rows: all of them.
        place: says where a row stands, e.g. `clinic.csv, line 7`.
    """

    rows: Dataset
    place: Callable[[int], str]


def plain_rows(rows: Dataset) -> Rows:
    """Rows that the `datasets` library read."""
    return Rows(rows, lambda row: f"row {row}")


def filed(name: str) -> bool:
    """Whether a data set is one table in a file, or a folder of CSV files that name no pictures, with or without notes beside."""
    path = Path(name).expanduser()
    if path.is_file():
        return path.suffix.lower() in (*ENDS, PARQUET)
    if not path.is_dir():
        return False
    files = sorted(listed(str(path)))
    tables, notes = _tables(files), [file for file in files if Path(file).name.lower() in UNNAMED or file.lower().endswith(NOTES)]
    alone = len(tables) + len(notes) == len(files) and len(notes) <= len(tables)
    return bool(tables) and alone and not named_pictures(str(path), files, NAMED, name)


def _tables(files: Sequence[str]) -> list[str]:
    return [file for file in files if file.lower().endswith(ENDS)]


def read_filed(name: str, split: str = TRAIN) -> Rows:
    """A split of such a data set.

    Raises:
        SettingError: a file cannot be read, files have different columns, or there is no such split.
    """
    from datasets import Dataset

    path = Path(name).expanduser()
    splits = {TRAIN: [path]} if path.is_file() else _by_split(path)
    if split not in splits:
        others = ", ".join(splits)
        raise SettingError(
            f"{name} has no split {split!r}, only {others}; name one in data.test-split, or set data.test = 'held-out'"
        )
    frames = [_frame(file) for file in splits[split]]
    _same_columns(frames, splits[split], name)
    if len(frames) > 1 and SITE not in frames[0].columns:
        for frame, site in zip(frames, _sites(splits[split], path), strict=True):
            frame[SITE] = site
    starts = np.cumsum([0, *map(len, frames)])
    lines = np.concatenate([frame.index.to_numpy() for frame in frames])
    try:
        rows = Dataset.from_pandas(_joined(frames), preserve_index=False)
    except (ArithmeticError, TypeError, ValueError) as error:  # pyarrow's own are ValueErrors
        reason = local(" ".join(str(error).split())[:200], "the node's log says where")
        raise SettingError(f"{name} holds a column that is neither numbers nor text: {reason}; mend that column") from error

    def place(row: int) -> str:
        file = splits[split][int(np.searchsorted(starts, row, "right")) - 1]
        named = "" if nameless() else f"{file.name}, "
        return f"{named}{'row' if file.suffix.lower() == PARQUET else 'line'} {lines[row]}"

    return Rows(rows, place)


def _sites(files: Sequence[Path], folder: Path) -> list[str]:
    """What each file's rows are called after: the file's name, with the folders that lead to it where names would be the same."""
    stems = [file.stem for file in files]
    return stems if len({*stems}) == len(stems) else [str(file.relative_to(folder).with_suffix("")) for file in files]


def _joined(frames: Sequence[DataFrame]) -> DataFrame:
    """One frame; a column that is of numbers in some files and of text in others is text in all, so that it can be told where."""
    from pandas import concat

    found = concat(frames, ignore_index=True)
    for column in found.columns:
        values = found[column]
        if values.dtype != object:
            continue
        kinds = {type(value) for value in values[values.notna()]} - {bytes, list, dict}
        if len(kinds) > 1 or kinds == {int}:  # whole numbers that are objects have too many digits for a number's type
            found[column] = values.where(values.isna(), values.astype(str))
    return found


def _by_split(folder: Path) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for file in _tables(sorted(listed(str(folder)))):
        found.setdefault(NAMED.get(Path(file).stem.lower(), TRAIN), []).append(folder / file)
    return found


def _frame(path: Path) -> DataFrame:
    """A file's rows, by the lines that they stand in; lines without anything are left out.

    Raises:
        SettingError: it cannot be read.
    """
    import pandas

    try:
        if path.suffix.lower() == PARQUET:
            return pandas.read_parquet(path).reset_index(drop=True)
        with path.open(encoding="utf-8-sig") as stream:
            head = stream.readline()
        with warnings.catch_warnings():
            warnings.simplefilter("error", pandas.errors.ParserWarning)
            frame = pandas.read_csv(
                path, sep=max(SEPARATORS, key=head.count), encoding="utf-8-sig", skipinitialspace=True, skip_blank_lines=False,
                low_memory=False, index_col=False,
            )  # fmt: skip
    except pandas.errors.ParserWarning:
        raise SettingError(
            f"{local(path.name, 'a file')} has more fields in its rows than its first line names; name all columns there (a "
            "column of row numbers, too)"
        ) from None
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split()).removeprefix("Error tokenizing data. C error: ")
        what = local(f"{path.name} cannot be read: {reason}", f"a file cannot be read ({type(error).__name__})")
        raise SettingError(f"{what}; save it in UTF-8 with a line of column names and as many fields in each line") from error
    frame.columns = [str(column).strip() for column in frame.columns]
    if twice := [column for k, column in enumerate(frame.columns) if column in frame.columns[:k]]:
        raise SettingError(f"{local(path.name, 'a file')} has two columns called {twice[0]!r}; call one otherwise")
    frame.index = frame.index + BELOW
    return frame.dropna(how="all")


def _same_columns(frames: Sequence[DataFrame], files: Sequence[Path], name: str) -> None:
    """Refuse files whose columns differ, or that hold no row."""
    for frame, file in zip(frames, files, strict=True):
        if not len(frame):
            what = local(os.path.basename(file), "a file")
            raise SettingError(f"{name}: {what} holds no row; give some below the columns' names, or remove it")
        if odd := sorted(set(map(str, frame.columns)) ^ set(map(str, frames[0].columns))):
            which = local(f"{file.name} and {files[0].name}", "files")
            raise SettingError(f"{name}: {which} differ in column {odd[0]!r}; give all files the same columns")


def row_values(rows: Dataset, column: str) -> Any:
    """A column as pandas has it."""
    return rows.select_columns([column]).with_format(None).to_pandas()[column]
