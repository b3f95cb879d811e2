"""Finished pieces of the stage that a run is at (a client's reply, a batch of images), beside its checkpoint until the next one.

A piece is a safetensors file for its owner alone, written whole, that holds its arrays, what else was told, and a digest of both.
One that is damaged is no piece, and what cannot be kept is not: a run without its pieces does the same work once more.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedwarm.core.arrays import Arrays
from fedwarm.core.files import replacing

LIMIT_BYTES = 2**30
TOLD = "told"
_NAME = re.compile(r"piece-(\d+)-.+\.safetensors")


class Pieces:
    """The pieces in a folder.

    Args:
        folder: the checkpoint's.
        limit_bytes: most of one stage; what comes after that is not kept. Drawn batches are, whatever they come to: hours of a
            GPU's work stand in a few gigabytes, which the run's own files take again at the end of the stage.
    """

    def __init__(self, folder: Path, limit_bytes: int = LIMIT_BYTES) -> None:
        self.folder, self.limit_bytes = folder, limit_bytes
        self._stage, self._used, self._full = -1, 0, False

    def find(self, stage: int, name: str) -> tuple[Arrays, dict[str, Any]] | None:
        """A piece of a stage, whole, or None."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self._path(stage, name), "np") as file:
                arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (it is no mapping)
                digest, _, text = (file.metadata() or {}).get(TOLD, "").partition(" ")
            if digest != _digest(arrays, text):
                return None
            order, told = json.loads(text)
            return {key: arrays[key] for key in order}, told
        except (SafetensorError, OSError, ValueError, KeyError, TypeError):
            return None

    def keep(self, stage: int, name: str, arrays: Arrays, told: dict[str, Any], bounded: bool = True) -> None:
        """Keep a piece, where there is room; a disk that takes no more costs the run nothing but a warning."""
        from safetensors.numpy import save_file

        if stage != self._stage:
            self._stage, self._full = stage, False
            self._used = sum(p.stat().st_size for p in self.folder.glob(f"piece-{stage}-*.safetensors"))
        arrays = {key: np.asarray(array, order="C") for key, array in arrays.items()}  # safetensors writes memory as it lies
        text = json.dumps([list(arrays), told])
        self._used += bounded * (sum(array.nbytes for array in arrays.values()) + len(text))
        if self._full or self._used > self.limit_bytes:
            return
        try:
            with replacing(self._path(stage, name), private=True, durable=True) as temporary:
                save_file(arrays, temporary, metadata={TOLD: f"{_digest(arrays, text)} {text}"})
        except Exception as error:
            self._full = True
            logging.getLogger("flwr").warning("a run that ends in this stage would begin it anew: %s", str(error).splitlines()[0])

    def through(self, stage: int, name: str, told: dict[str, Any]) -> Callable[[int, Callable[[], Tensor]], Tensor]:
        """What takes (start, draw) and gives a batch that was kept, else draws it and keeps it."""

        def batch(start: int, draw: Callable[[], Tensor]) -> Tensor:
            found = self.find(stage, f"{name}-{start}")
            if found is not None and found[1] == told:
                return torch.from_numpy(found[0]["batch"])
            drawn = draw()
            self.keep(stage, f"{name}-{start}", {"batch": drawn.numpy()}, told, bounded=False)
            return drawn

        return batch

    def _path(self, stage: int, name: str) -> Path:
        return self.folder / f"piece-{stage}-{name}.safetensors"


def is_piece(path: Path, least: int) -> bool:
    """Whether a file is a piece of this stage or of a later one."""
    found = _NAME.fullmatch(path.name)
    return found is not None and int(found[1]) >= least


def _digest(arrays: Arrays, text: str) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
