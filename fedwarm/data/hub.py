"""Data sets of the Hub and local folders, read by Hugging Face's datasets library or as folders of pictures, one for each class.

Clients train on the `train` split alone; another split is read where `data.test` asks for one to test on. Images are decoded when
a client needs them, at most once in a process, brought to RGB and S x S pixels (bilinear, antialiased; a picture that is not
square is squeezed).
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from fedwarm.data.broken import local, shown
from fedwarm.data.folders import TRAIN, listed, splits_of, train_of
from fedwarm.data.frames import Rows as FileRows
from fedwarm.data.frames import plain_rows
from fedwarm.data.gallery import Gallery
from fedwarm.data.labels import ids, labelled
from fedwarm.data.pictures import Reading
from fedwarm.data.settings import CLASSES, Data
from fedwarm.data.tables import Column, Rows, Table
from fedwarm.data.tabular import numeric, row_table, target_columns, targets_of, textual
from fedwarm.data.texts import COLUMNS as TEXTS
from fedwarm.data.texts import of_column
from fedwarm.settings.fields import SettingError, near
from fedwarm.settings.kinds import SETS

if TYPE_CHECKING:
    from datasets import Dataset

IMAGE_COLUMNS = ("image", "img", "images", "picture", "photo")
PLAIN, LOG = Reading(), logging.getLogger("fedwarm")
LABEL_COLUMNS = ("label", "labels", "character", "fine_label", "class", "target", "category", "digit")


@lru_cache(maxsize=1)
def hub_table(
    name: str, image_column: str, label_column: str, size: int, reading: Reading = PLAIN, split: str = TRAIN,
    data: Data | None = None,
) -> Table:  # fmt: skip
    """A Hub data set or a local folder; the columns of images and labels are found where their names are empty.

    `data` are the settings that say what else it may be than pictures with classes: other targets, a table, a text.

    Raises:
        SettingError: it cannot be read, has no such columns, or rows that cannot be used and are not to be left out.
    """
    rows, told = read(name, split), printable(name) if split == TRAIN else f"split {split!r} of {printable(name)}"
    columns, data = tuple(rows.column_names), data or Data(name, image_column=image_column, label_column=label_column)
    if (table := without_pictures(plain_rows(rows), told, data)) is not None:
        return table
    image = found("image", image_column, IMAGE_COLUMNS, rows, told)
    labels, answers, kept = _targets(rows, told, data, reading)
    gallery = Gallery(rows, image, size, told, reading, None if split == TRAIN else lambda: read(name))
    broken = gallery.broken(kept) if reading.skip_broken else []
    if broken:
        LOG.warning("fedwarm: %s: %d broken pictures left out: %s", told, len(broken), shown(broken))
        whole = ~np.isin(kept, [each.row for each in broken])
        labels, answers, kept = (
            Column(labels.codes[whole], labels.names),
            answers if answers is None else answers[torch.from_numpy(whole)],
            kept[whole],
        )
    every = len(kept) == len(rows)

    def remarks() -> list[str]:
        return [
            *_left_out(len(rows) - len(kept) - len(broken), len(broken)),
            *(gallery.depth.remarks() if split == TRAIN else []),
        ]

    return Table(
        told,
        labels,
        columns,
        lambda column: ids(rows, column, told, None if every else kept),
        gallery.images if every else lambda k: gallery.images(kept[k]),
        remarks,
        targets=answers,
        originals=gallery.originals if every else lambda k, side: gallery.originals(kept[k], side),
    )


def _targets(rows: Dataset, name: str, data: Data, reading: Reading) -> tuple[Column, Tensor | None, Rows]:
    """The targets of the rows that have some, and these rows' numbers, ascending."""
    if data.targets == CLASSES:
        column = found("label", data.label_column, LABEL_COLUMNS, rows, name)
        labels, kept = labelled(rows, column, name, reading.missing_labels)
        return labels, None, kept
    columns = target_columns([str(column) for column in rows.column_names], name, data)
    labels, answers, kept = targets_of(plain_rows(rows), columns, name, data)
    return Column(labels.codes[kept], labels.names), None if answers is None else answers[torch.from_numpy(kept)], kept


def without_pictures(read: FileRows, name: str, data: Data) -> Table | None:
    """The table of numbers or the text that rows are; None where they have pictures, or nothing of the kind."""
    columns, features = [str(column) for column in read.rows.column_names], read.rows.features
    kinds = {type(features[column]).__name__ for column in columns}
    if data.image_column or "Image" in kinds or {column.lower() for column in columns} & {*IMAGE_COLUMNS}:
        return None
    asked = [part.strip() for part in data.feature_columns.split(",") if part.strip()]
    texts = [
        column for column in asked or columns
        if textual(features.get(column)) and (column.lower() in TEXTS or len(asked) == 1)
    ]  # fmt: skip
    if texts:
        return of_column(read, texts[0], name, data)
    targets = {part.strip() for part in data.label_column.split(",")} | {*LABEL_COLUMNS}
    numbers = any(numeric(features[column]) for column in columns if column not in targets)
    return row_table(read, name, data) if asked or numbers else None


def _left_out(unlabelled: int, broken: int) -> list[str]:
    """Numbers alone, as they travel: names of files stay where these lie."""
    told = {"rows without a label left out": unlabelled, "broken pictures left out": broken}
    return [f"{text}: {count:,}" for text, count in told.items() if count]


def printable(name: str) -> str:
    """A name in one line."""
    return name if name.isprintable() else repr(name)


def read(name: str, split: str = TRAIN) -> Dataset:
    """A split of a Hub data set or a local folder, images not decoded; SettingError where there is none."""
    path = os.path.expanduser(name)
    if not os.path.isdir(path) and (os.path.isabs(path) or path.startswith(".") or path.count("/") > 1):
        if os.path.exists(path):
            raise SettingError(f"data.name = {name!r} is a file; give the folder that it lies in")
        raise SettingError(f"data.name = {name!r}: there is no such folder; give a folder of parquet files or a Hub name")
    from datasets import disable_progress_bars

    from fedwarm.core.network import calm_hub

    if not sys.stderr.isatty():
        disable_progress_bars()
    try:
        with calm_hub(path):
            return train_of(path, printable(name)) if split == TRAIN else _other(splits_of(path, printable(name)), split, name)
    except SettingError:
        raise
    except Exception as error:
        lines = str(error).splitlines() or [type(error).__name__]
        if os.path.isdir(path):
            named = any(os.path.basename(file) in lines[0] for file in listed(path))
            reason = local(lines[0], f"{type(error).__name__}, which the node's log explains") if named else lines[0]
            raise SettingError(
                f"data.name = {name!r} cannot be read: {reason}; give a folder of parquet files with a train split, of "
                "pictures by class, or of pictures and a CSV file that names them"
            ) from error
        known = ", ".join(f"`{each}`" for each in SETS)
        raise SettingError(
            f"data.name = {name!r} is neither {known} nor a data set that can be read{near(name, [*SETS])}: {lines[0]}; "
            "give a local folder of parquet files with a train split or of pictures by class, "
            "or a Hub name on a machine with network"
        ) from error


def _other(splits: Mapping[str, Dataset], split: str, name: str) -> Dataset:
    """One of a data set's splits that is not what clients train on."""
    if split not in splits:
        others = [str(other) for other in splits if other != TRAIN]
        remedy = f"name one of {', '.join(others)} in data.test-split, or set" if others else "set"
        raise SettingError(f"{name} has no split {split!r}, only {', '.join([TRAIN, *others])}; {remedy} data.test = 'held-out'")
    return splits[split]


def found(kind: str, given: str, usual: tuple[str, ...], rows: Dataset, name: str) -> str:
    """The column of images or labels: the one given, else one of the usual names, else the only one of its type."""
    columns = [str(column) for column in rows.column_names]
    setting = f"data.{kind}-column"
    if given:
        if given not in columns:
            raise SettingError(f"{setting} = {given!r} is no column of {name}{near(given, columns)}; it has {', '.join(columns)}")
        return given
    lower = {column.lower(): column for column in columns}
    for column in usual:
        if column in lower:
            return lower[column]
    wanted = {"image": "Image", "label": "ClassLabel"}[kind]
    typed = [column for column in columns if type(rows.features[column]).__name__ == wanted]
    if len(typed) == 1:
        return typed[0]
    raise SettingError(f"{name} has no {kind} column that is recognised by its name; it has {', '.join(columns)}; set {setting}")
