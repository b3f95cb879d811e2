"""The images of a data set, decoded row by row when they are asked for."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from fedwarm.data.broken import Broken, refuse
from fedwarm.data.depth import SAMPLE, Depth
from fedwarm.data.pictures import Picture, Reading, opened, pixels, proportioned
from fedwarm.data.tables import Rows
from fedwarm.settings.fields import SettingError

if TYPE_CHECKING:
    from datasets import Dataset

ENCODED = ("PIL.Image.Image", "binary", "large_binary", "string", "large_string")
KEPT_BYTES = 1 << 30
AT_ONCE = 512


class Gallery:
    """The images of a data set, kept once they are decoded while all of them together stay under KEPT_BYTES.

    Args:
        rows: the whole data set.
        column: where its images are.
        size: their side.
        name: how messages call the data set.
        reading: how pictures are read.
        like: the data set whose pictures say which value is white, read when that is asked; None: this one's own.
    """

    def __init__(
        self, rows: Dataset, column: str, size: int, name: str, reading: Reading, like: Callable[[], Dataset] | None = None
    ) -> None:
        feature = rows.features[column]
        encoded = "bytes" in feature if isinstance(feature, dict) else getattr(feature, "dtype", "") in ENCODED
        if not encoded:
            raise SettingError(f"column {column!r} of {name} holds {feature}, not images as files (PNG, JPEG, ..)")
        self.encoded, self.like = _encoded(rows, column), like
        self.column, self.size, self.name, self.reading = column, size, name, reading
        self.depth = Depth(reading.bits, self._sample, f"{name}: column {column!r}")
        shape = (len(rows), 3, size, size)
        keep = int(np.prod(shape)) <= KEPT_BYTES
        self.kept = torch.empty(shape, dtype=torch.uint8) if keep else None
        self.known = np.zeros(len(rows), dtype=bool)

    def images(self, rows: Rows) -> Tensor:
        """The images of the rows (k,): uint8 (k, 3, S, S).

        Raises:
            SettingError: rows that are no images, all of them; values whose range cannot be told.
        """
        if self.kept is None:
            images, broken = self._decoded(rows)
        else:
            missing = np.unique(rows[~self.known[rows]])
            broken = self._keep(missing)
            images = self.kept[torch.from_numpy(rows)]
        if broken:
            refuse(broken, self.name, self.column)
        return images

    def broken(self, rows: Rows) -> list[Broken]:
        """Those of the rows (k,) whose pictures cannot be read; the others are kept."""
        found: list[Broken] = []
        for part in np.split(rows, range(AT_ONCE, len(rows), AT_ONCE)):
            found += self._decoded(part)[1] if self.kept is None else self._keep(part[~self.known[part]])
        return found

    def _keep(self, rows: Rows) -> list[Broken]:
        assert self.kept is not None
        found: list[Broken] = []
        for part in np.split(rows, range(AT_ONCE, len(rows), AT_ONCE)):
            images, broken = self._decoded(part)
            self.kept[torch.from_numpy(part)] = images
            self.known[part] = True
            self.known[[each.row for each in broken]] = False
            found += broken
        return found

    def originals(self, rows: Rows, side: int) -> list[Tensor]:
        """The pictures of the rows (k,) in their own proportions, the shorter side `side` pixels long: uint8 (3, h, w) each.

        Raises:
            SettingError: as `images`.
        """
        made = [each for _, each in self._made(rows, partial(proportioned, side=side))]
        if broken := [each for each in made if isinstance(each, Broken)]:
            refuse(broken, self.name, self.column)
        return [each for each in made if isinstance(each, Tensor)]

    def _decoded(self, rows: Rows) -> tuple[Tensor, list[Broken]]:
        """The rows' images, black where they are broken, and what is broken."""
        images = torch.zeros(len(rows), 3, self.size, self.size, dtype=torch.uint8)
        broken = []
        for i, made in self._made(rows, partial(pixels, size=self.size)):
            if isinstance(made, Broken):
                broken.append(made)
            else:
                images[i] = made
        return images, broken

    def _made(self, rows: Rows, make: Callable[..., Tensor]) -> Iterator[tuple[int, Tensor | Broken]]:
        """What `make` makes of the rows' pictures, with their places among them, or why one is broken."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for i, (row, value) in enumerate(zip(rows.tolist(), _values(self.encoded, rows, self.column), strict=True)):
                try:
                    picture = opened(value or {"bytes": None, "path": None})
                    top = self.depth.top(picture, row)
                    yield i, make(picture.image, background=self.reading.background, top=top)
                except (SettingError, MemoryError):
                    raise
                except Exception as error:  # PIL's readers raise whatever a broken file makes them stumble over
                    yield i, Broken(row, str((value or {}).get("path") or ""), reason(error, value))

    def _sample(self) -> Iterator[Picture]:
        """Up to SAMPLE pictures at even distances over the whole data set, without broken ones."""
        encoded = self.encoded if self.like is None else _encoded(self.like(), self.column)
        n = len(encoded)
        rows = np.arange(min(n, SAMPLE)) * n // max(1, min(n, SAMPLE))
        for value in _values(encoded, rows, self.column):
            try:
                yield opened(value or {"bytes": None, "path": None})
            except MemoryError:
                raise
            except Exception:
                continue


def _encoded(rows: Dataset, column: str) -> Dataset:
    from datasets import Image

    return rows.select_columns([column]).cast_column(column, Image(decode=False))


def _values(encoded: Dataset, rows: Rows, column: str) -> Sequence[Mapping[str, Any] | None]:
    found: Sequence[Mapping[str, Any] | None] = encoded[rows][column] if len(rows) else []
    return found


def reason(error: Exception, value: Mapping[str, Any] | None) -> str:
    """Why a picture cannot be read, in a few words."""
    from PIL import UnidentifiedImageError

    if not value or (not value.get("bytes") and not value.get("path")):
        return "empty"
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, PermissionError):
        return "the file may not be read"
    if isinstance(error, UnidentifiedImageError):
        return "of no image format that PIL knows"
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
