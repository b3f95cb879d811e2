"""What an adapter learns from, encoded once: latents and captions on the client's disk until the adapter is done.

After a crash they are read instead of encoded again. They tell what the images show, so the file is its owner's alone.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from fedwarm.core.files import DiskError, make_folder, replacing

NAME = "encoded.safetensors"
MARK = "mark"
Pair = tuple[Tensor, Tensor]


def encoded(folder: Path | None, mark: str, make: Callable[[], Pair]) -> Pair:
    """Latents and captions, as they were kept under this mark, else made and kept; a full disk costs no more than a warning.

    Args:
        folder: the client's own; None: nothing is kept.
        mark: what decides them.
        make: gives both, on their device.
    """
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import save_file

    if folder is None:
        return make()
    try:
        with safe_open(folder / NAME, "pt") as file:
            if (file.metadata() or {}).get(MARK) == mark:
                return file.get_tensor("latents"), file.get_tensor("context")
    except (SafetensorError, OSError, ValueError):
        pass
    latents, context = make()
    try:
        make_folder(folder, 0o700)
        with replacing(folder / NAME, private=True) as temporary:
            tensors = {"latents": latents.cpu().contiguous().clone(), "context": context.cpu().contiguous().clone()}
            save_file(tensors, temporary, metadata={MARK: mark})
    except DiskError as error:
        logging.getLogger("fedwarm").warning("tuning that ends now would encode its images anew: %s", error)
    return latents, context
