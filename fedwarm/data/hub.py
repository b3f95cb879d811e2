"""Data sets of the Hub and local folders of parquet files, read by Hugging Face's datasets library.

Clients train on the `train` split alone; another split is read where `data.test` asks for one to test on. Images are decoded when
a client needs them, at most once in a process, brought to RGB and S x S pixels (bilinear, antialiased; a picture that is not
square is squeezed).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from fedwarm.config import SettingError, near
from fedwarm.data.tables import Column, Rows, Table, coded

if TYPE_CHECKING:
    from datasets import Dataset
    from PIL.Image import Image

IMAGE_COLUMNS = ("image", "img", "images", "picture", "photo")
LABEL_COLUMNS = ("label", "labels", "character", "fine_label", "class", "target", "category", "digit")
ENCODED = ("PIL.Image.Image", "binary", "large_binary", "string")
KEPT_BYTES = 1 << 30
TRAIN = "train"


@lru_cache(maxsize=1)
def hub_table(name: str, image_column: str, label_column: str, size: int, split: str = TRAIN) -> Table:
    """A Hub data set or a local folder; the columns of images and labels are found where their names are empty.

    Raises:
        SettingError: it cannot be read, or has no such columns.
    """
    rows = read(name, split)
    name = name if split == TRAIN else f"split {split!r} of {name}"
    columns = tuple(rows.column_names)
    image = found("image", image_column, IMAGE_COLUMNS, rows, name)
    label = found("label", label_column, LABEL_COLUMNS, rows, name)
    return Table(
        name, ids(rows, label, name), columns, lambda column: ids(rows, column, name), Gallery(rows, image, size, name).images
    )


def read(name: str, split: str = TRAIN) -> Dataset:
    """A split of a Hub data set or a local folder, images not decoded; SettingError where there is none."""
    path = os.path.expanduser(name)
    if not os.path.isdir(path) and (os.path.isabs(path) or path.startswith(".") or path.count("/") > 1):
        raise SettingError(f"data.name = {name!r}: there is no such folder; give a folder of parquet files or a Hub name")
    from datasets import disable_progress_bars, load_dataset

    if not sys.stderr.isatty():
        disable_progress_bars()
    try:
        return load_dataset(path, split=split) if split == TRAIN else _other(load_dataset(path), split, name)
    except SettingError:
        raise
    except Exception as error:
        lines = str(error).splitlines() or [type(error).__name__]
        raise SettingError(
            f"data.name = {name!r} is neither `digits` nor a data set that can be read{near(name, ['digits'])}: {lines[0]}; "
            "give a local folder of parquet files with a train split, or a Hub name on a machine with network"
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
    raise SettingError(f"{name} has no {kind} column that can be told by its name; it has {', '.join(columns)}; set {setting}")


def ids(rows: Dataset, column: str, name: str) -> Column:
    """A column of labels or ids as numbers and names; ClassLabel names are kept as they are."""
    if column not in rows.column_names:
        raise SettingError(f"{name} has no column {column!r}; it has {', '.join(rows.column_names)}")
    feature = rows.features[column]
    dtype = str(getattr(feature, "dtype", ""))
    if not dtype.startswith(("string", "large_string", "bool", "int", "uint")):
        raise SettingError(f"column {column!r} of {name} holds {feature}; labels and ids must be text or whole numbers")
    values = rows.with_format(None)[column][:]
    classes = getattr(feature, "names", None)
    missing = sum(value is None or (classes is not None and value < 0) for value in values)
    if missing:
        raise SettingError(f"column {column!r} of {name} is empty in {missing} of {len(values)} rows; leave those out first")
    return coded(values) if classes is None else Column(np.asarray(values, dtype=np.int64), tuple(classes))


class Gallery:
    """The images of a data set, decoded row by row and kept while all of them together stay under KEPT_BYTES."""

    def __init__(self, rows: Dataset, column: str, size: int, name: str) -> None:
        from datasets import Image

        feature = rows.features[column]
        encoded = "bytes" in feature if isinstance(feature, dict) else getattr(feature, "dtype", "") in ENCODED
        if not encoded:
            raise SettingError(f"column {column!r} of {name} holds {feature}, not images as files (PNG, JPEG, ..)")
        self.encoded = rows.select_columns([column]).cast_column(column, Image(decode=False))
        self.column, self.size, self.name = column, size, name
        shape = (len(rows), 3, size, size)
        keep = int(np.prod(shape)) <= KEPT_BYTES
        self.kept = torch.empty(shape, dtype=torch.uint8) if keep else None
        self.known = np.zeros(len(rows), dtype=bool)

    def images(self, rows: Rows) -> Tensor:
        """The images of the rows (k,): uint8 (k, 3, S, S); SettingError names a row that is no image."""
        if self.kept is None:
            return self._decoded(rows)
        missing = rows[~self.known[rows]]
        if len(missing):
            self.kept[torch.from_numpy(missing)] = self._decoded(missing)
            self.known[missing] = True
        return self.kept[torch.from_numpy(rows)]

    def _decoded(self, rows: Rows) -> Tensor:
        from datasets import Image

        images = torch.empty(len(rows), 3, self.size, self.size, dtype=torch.uint8)
        decode = Image().decode_example
        for i, (row, value) in enumerate(zip(rows, self.encoded[rows][self.column], strict=True)):
            try:
                images[i] = pixels(decode(value), self.size)
            except (OSError, TypeError, ValueError) as error:
                raise SettingError(f"{self.name}: row {row} of column {self.column!r} cannot be read as an image") from error
        return images


def pixels(image: Image, size: int) -> Tensor:
    """A picture as uint8 RGB (3, size, size)."""
    from PIL.Image import Resampling, fromarray

    if image.mode.startswith("I"):
        image = fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
    small = image.convert("RGB").resize((size, size), Resampling.BILINEAR)
    return torch.from_numpy(np.array(small)).permute(2, 0, 1)
