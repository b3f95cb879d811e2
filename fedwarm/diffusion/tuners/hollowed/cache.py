"""What the core said about noised images, on disk: written once, read a batch at a time, its owner's alone, and deleted.

A tuple is an image's latent, a time step, a caption, the seed of its noise, and b (or b - h). Noise is not stored: it is drawn
again from its seed, the same bits each time.
"""

from __future__ import annotations

import json
import shutil
import struct
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from fedwarm.core.files import make_folder, replacing, writing
from fedwarm.diffusion.offload import open_private, read_into, write_all
from fedwarm.diffusion.tuning import CAPTION_DROPOUT
from fedwarm.settings.fields import SettingError

NAMES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.float64: "F64"}
ALIGNED = 8
MB = 1e6
LAST_SEED = 2**63 - 1


class Rows:
    """A safetensors file of one tensor (count, *shape) that is written row after row and read by rows, in bounded memory.

    Args:
        path: a new file.
        name: of the tensor.
        count, shape, dtype: of the whole.
    """

    def __init__(self, path: Path, name: str, count: int, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        self.path, self.count, self.shape, self.dtype = path, count, shape, dtype
        self.row_bytes = prod(shape) * dtype.itemsize
        self.data_bytes = count * self.row_bytes
        entry = {"dtype": NAMES[dtype], "shape": [count, *shape], "data_offsets": [0, self.data_bytes]}
        header = json.dumps({name: entry}).encode()
        header += b" " * (-len(header) % ALIGNED)
        self.header_bytes = 8 + len(header)
        self.written = 0
        with open_private(path) as file, writing(path):
            file.write(struct.pack("<Q", len(header)) + header)

    def append(self, rows: Tensor) -> None:
        """Write the next rows (n, *shape), brought to the file's dtype.

        Raises:
            ValueError: other shapes, or more rows than announced.
            FloatingPointError: a number does not fit the dtype.
        """
        if rows.shape[1:] != self.shape or self.written + len(rows) > self.count:
            raise ValueError(f"{len(rows)} rows of {tuple(rows.shape[1:])} do not fit a file of {self.count} x {self.shape}")
        cast = rows.detach().to("cpu", self.dtype)
        if not torch.isfinite(cast).all():
            raise FloatingPointError(f"the cache holds numbers beyond {self.dtype}; set hollowed.cache-dtype = 'float32'")
        with writing(self.path), self.path.open("ab", buffering=0) as file:
            write_all(file, cast)
        self.written += len(rows)

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


@dataclass(frozen=True)
class Draws:
    """What is drawn for each of N tuples, int64 (N,): row of the image, time step, row of the caption, seed of the noise."""

    images: Tensor
    time_steps: Tensor
    captions: Tensor
    seeds: Tensor

    def noise(self, which: Sequence[int], shape: Sequence[int]) -> Tensor:
        """Standard normal (n, *shape), float32 on the CPU, each from its own seed."""
        own = torch.Generator()
        return torch.stack([torch.randn(tuple(shape), generator=own.manual_seed(int(self.seeds[i]))) for i in which])

    def save(self, path: Path) -> None:
        """Write a private safetensors file."""
        from safetensors.torch import save_file

        with replacing(path, private=True) as temporary:
            save_file(dict(vars(self)), temporary)


def draw_tuples(labels: Tensor, count: int, captions: int, time_steps: int, generator: torch.Generator) -> Draws:
    """Independent draws by the law of plain tuning: uniform images and time steps, a tenth without a caption.

    Args:
        labels: (n,), the caption of each image.
        captions: rows of the caption table; the last one is the empty sentence.
    """
    images = torch.randint(len(labels), (count,), generator=generator)
    dropped = torch.rand(count, generator=generator) < CAPTION_DROPOUT
    told = torch.where(dropped, torch.tensor(captions - 1), labels[images])
    steps = torch.randint(time_steps, (count,), generator=generator)
    return Draws(images, steps, told, torch.randint(LAST_SEED, (count,), generator=generator))


@contextmanager
def private_folder(parent: Path | None, name: str, keep: bool) -> Iterator[Path]:
    """An empty folder for its owner alone, gone after the block, also after an error.

    Args:
        parent: where it is made; what a process that was killed left there under this name is deleted first. None: the system's
            place for temporary files, under a name of its own.
        keep: leave it where the block ends well.
    """
    if parent is None:
        folder = Path(tempfile.mkdtemp(prefix=f"{name}-"))
    else:
        folder = parent / name
        shutil.rmtree(folder, ignore_errors=True)
        make_folder(parent, 0o700)
        with writing(folder):
            folder.mkdir(mode=0o700)
    done = False
    try:
        yield folder
        done = True
    finally:
        if not (keep and done):
            shutil.rmtree(folder)


def check_room(folder: Path, cache_bytes: int, weight_bytes: int, tuples: int) -> None:
    """Refuse before the work what the disk cannot hold.

    Raises:
        SettingError: too little is free.
    """
    free = shutil.disk_usage(folder).free
    if cache_bytes + weight_bytes > free:
        raise SettingError(
            f"hollowed tuning needs {(cache_bytes + weight_bytes) / MB:,.0f} MB below {folder} ({tuples:,} tuples: "
            f"{cache_bytes / MB:,.0f} MB, weights: {weight_bytes / MB:,.0f} MB) and {free / MB:,.0f} MB are free; make room, "
            "lower hollowed.tuples, set hollowed.cache-dtype = 'float16' or cut less deep"
        )
