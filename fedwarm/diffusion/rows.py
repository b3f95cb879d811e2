"""Tensors on disk that grow by rows and are read by rows; a process that comes after a crash goes on where the last one was.

Rows count once they were settled: they were on the disk before a file beside them said how many there are. So a loss of power
takes no more than a killed process does, which is what was written since.
"""

from __future__ import annotations

import json
import os
import struct
import time
from collections.abc import Sequence
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from fedwarm.core.files import replacing, settle, writing
from fedwarm.diffusion.offload import open_private, read_into, write_all

NAMES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.float64: "F64"}
ALIGNED = 8
EVERY_SECONDS = 60.0  # a crash costs this at most, and one step; two minutes are what users are promised


class Rows:
    """A safetensors file of one tensor (count, *shape) that is written row after row and read by rows, in bounded memory.

    Args:
        path: a new file; with a mark one that was begun under the same mark is gone on with, any other is replaced.
        name: of the tensor.
        count, shape, dtype: of the whole.
        mark: what decides the rows; empty: the file must be new.
        remedy: what helps where a number is not finite in this dtype; empty: nobody looks.

    Raises:
        FileExistsError: it is there already, and there is no mark.
    """

    def __init__(
        self, path: Path, name: str, count: int, shape: tuple[int, ...], dtype: torch.dtype, mark: str = "", remedy: str = ""
    ) -> None:
        self.path, self.count, self.shape, self.dtype, self.mark, self.remedy = path, count, shape, dtype, mark, remedy
        self.row_bytes = prod(shape) * dtype.itemsize
        self.data_bytes = count * self.row_bytes
        entry = {"dtype": NAMES[dtype], "shape": [count, *shape], "data_offsets": [0, self.data_bytes]}
        header = json.dumps({**({"__metadata__": {"mark": mark}} if mark else {}), name: entry}).encode()
        header += b" " * (-len(header) % ALIGNED)
        whole = struct.pack("<Q", len(header)) + header
        self.header_bytes, self.last = len(whole), time.monotonic()
        self.written = self._settled(whole) if mark else 0
        if self.written:
            with writing(path):
                os.truncate(path, self.header_bytes + self.written * self.row_bytes)
            return
        if mark:
            Rows.forget(path)
        with open_private(path) as file, writing(path):
            file.write(whole)

    @property
    def note(self) -> Path:
        """The file that says how many rows were settled."""
        return note_of(self.path)

    def _settled(self, header: bytes) -> int:
        """Rows that another process left of the same tensor; 0 where there are none."""
        try:
            rows = int(self.note.read_text())
            with self.path.open("rb") as file:
                same = file.read(len(header)) == header
            whole = self.path.stat().st_size >= len(header) + rows * self.row_bytes
        except (OSError, ValueError):
            return 0
        return rows if same and whole and 0 < rows <= self.count else 0

    def back_to(self, written: int) -> None:
        """Leave out all rows after so many."""
        self.written = written
        with writing(self.path):
            os.truncate(self.path, self.header_bytes + written * self.row_bytes)

    def append(self, rows: Tensor) -> None:
        """Write the next rows (n, *shape), brought to the file's dtype.

        Raises:
            ValueError: other shapes, or more rows than announced.
            FloatingPointError: a number does not fit the dtype.
        """
        if rows.shape[1:] != self.shape or self.written + len(rows) > self.count:
            raise ValueError(f"{len(rows)} rows of {tuple(rows.shape[1:])} do not fit a file of {self.count} x {self.shape}")
        cast = rows.detach().to("cpu", self.dtype)
        if self.remedy and not torch.isfinite(cast).all():
            raise FloatingPointError(f"the cache holds numbers beyond {self.dtype}; {self.remedy}")
        with writing(self.path), self.path.open("ab", buffering=0) as file:
            write_all(file, cast)
        self.written += len(rows)

    def keep(self) -> None:
        """Settle what was written, where there is a mark and it is time, or this was the last row."""
        if self.mark and (self.due() or self.written == self.count):
            self.settle()

    def due(self) -> bool:
        """Whether so much time has passed that what was written is to be settled."""
        return time.monotonic() - self.last >= EVERY_SECONDS

    def settle(self) -> None:
        """Have all rows so far be found after a crash.

        Raises:
            DiskError: they cannot be written.
        """
        with writing(self.path):
            settle(self.path)
        with replacing(self.note, private=True, durable=True) as temporary:
            temporary.write_text(str(self.written))
        self.last = time.monotonic()

    def read(self, rows: Sequence[int]) -> Tensor:
        """(n, *shape) in the file's dtype."""
        out = torch.empty(len(rows), *self.shape, dtype=self.dtype)
        with self.path.open("rb", buffering=0) as file:
            for i, row in enumerate(rows):
                if not 0 <= row < self.written:
                    raise IndexError(f"row {row} of {self.written}")
                file.seek(self.header_bytes + row * self.row_bytes)
                read_into(file, out[i])
        return out

    @staticmethod
    def forget(path: Path) -> None:
        """Remove what there is of a file of rows."""
        path.unlink(missing_ok=True)
        note_of(path).unlink(missing_ok=True)


def note_of(path: Path) -> Path:
    """Beside a file of rows: how many of them were settled."""
    return path.with_name(f"{path.name}.rows")
