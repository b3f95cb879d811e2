"""What an adapter learns from, encoded once: latents and captions on the client's disk until the adapter is done.

After a crash they are read instead of encoded again; one in the middle of it loses what was encoded in the last minute. They tell
what the images show, so the files are their owner's alone.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from fedwarm.core.files import DiskError, make_folder, replacing
from fedwarm.diffusion.rows import Rows

NAME, PIECES = "encoded.safetensors", "encoding.safetensors"
MARK = "mark"
Pair = tuple[Tensor, Tensor]
Batches = Callable[[int], Iterator[Tensor]]


def encoded(folder: Path | None, mark: str, count: int, like: Tensor, batches: Batches, context: Callable[[], Tensor]) -> Pair:
    """Latents and captions, as they were kept under this mark, else made and kept; a full disk costs no more than a warning.

    Args:
        folder: the client's own; None: nothing is kept.
        mark: what decides them.
        count: of the images.
        like: one latent's shape and type (c, h, w).
        batches: gives latents (k, c, h, w) of the images from a number on, on their device, always cut at the same numbers.
        context: gives the captions.
    """
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import save_file

    if folder is None:
        return torch.cat([*batches(0)]), context()
    try:
        with safe_open(folder / NAME, "pt") as file:
            if (file.metadata() or {}).get(MARK) == mark:
                return file.get_tensor("latents"), file.get_tensor("context")
    except (SafetensorError, OSError, ValueError):
        pass
    latents, said = _piecewise(folder, mark, count, like, batches), context()
    try:
        make_folder(folder, 0o700)
        with replacing(folder / NAME, private=True) as temporary:
            tensors = {"latents": latents.cpu().contiguous().clone(), "context": said.cpu().contiguous().clone()}
            save_file(tensors, temporary, metadata={MARK: mark})
        Rows.forget(folder / PIECES)
    except DiskError as error:
        _warn(error)
    return latents, said


def _piecewise(folder: Path, mark: str, count: int, like: Tensor, batches: Batches) -> Tensor:
    """All latents: those that a process left which was ended while it encoded, and the others."""
    rows: Rows | None = None
    found, fresh = list[Tensor](), list[Tensor]()
    try:
        make_folder(folder, 0o700)
        rows = Rows(folder / PIECES, "latents", count, tuple(like.shape), like.dtype, mark)
        found = [rows.read(range(rows.written))] if rows.written else []
    except (DiskError, OSError, EOFError) as error:
        rows = None
        _warn(error)
    for part in batches(0 if rows is None else rows.written):
        found.append(part)
        fresh.append(part)
        if rows is not None and rows.due():
            try:
                rows.append(torch.cat(fresh))
                rows.settle()
            except DiskError as error:
                _warn(error)
                rows = None
                Rows.forget(folder / PIECES)
            fresh.clear()
    return torch.cat([part.to(found[-1].device) for part in found])


def _warn(error: Exception) -> None:
    logging.getLogger("fedwarm").warning("tuning that ends now would encode its images anew: %s", error)


def forget(folder: Path) -> None:
    """Remove what was kept."""
    (folder / NAME).unlink(missing_ok=True)
    Rows.forget(folder / PIECES)
