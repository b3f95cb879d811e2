"""What the core said about noised images, on disk: written once, read a batch at a time, its owner's alone, and deleted.

A tuple is an image's latent, a time step, a caption, the seed of its noise, and b (or b - h). Noise is not stored: it is drawn
again from its seed, the same bits each time.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fedwarm.core.files import make_folder, replacing, writing
from fedwarm.diffusion.tuning import CAPTION_DROPOUT
from fedwarm.settings.fields import SettingError

MB = 1e6
LAST_SEED = 2**63 - 1


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
    """A folder for its owner alone, gone after the block, also after an error.

    Args:
        parent: where it is made, or is there as a process left it that was ended in the block. None: the system's place for
            temporary files, under a name of its own; it is gone then, too.
        keep: leave it where the block ends well.
    """
    if parent is None:
        folder = Path(tempfile.mkdtemp(prefix=f"{name}-"))
    else:
        folder = parent / name
        make_folder(parent, 0o700)
        with writing(folder):
            folder.mkdir(mode=0o700, exist_ok=True)
    stays = False
    try:
        yield folder
        stays = keep
    except Exception:
        raise
    except BaseException:  # the process is to end, and its run may go on
        stays = parent is not None
        raise
    finally:
        if not stays:
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
