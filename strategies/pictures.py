"""A few of the images that a server drew, for the report's page."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from fedwarm.core.arrays import from_tensors
from fedwarm.diffusion.pool import Pool
from fedwarm.record.folder import save_tensors

PICTURES_PER_CLASS = 4


def save_pictures(path: Path, pool: Pool, per_class: int = PICTURES_PER_CLASS) -> None:
    """The first few images of each client and class: tensors `client-k` (classes, per_class, 3, S, S) and their class lists."""
    grids, classes = {}, {}
    for client in pool.clients.unique().tolist():
        images, labels = pool.of_client(client)
        present = labels.unique().tolist()
        fewest = min([per_class, *[int((labels == c).sum()) for c in present]])
        grids[f"client-{client}"] = torch.stack([images[labels == c][:fewest] for c in present])
        classes[f"client-{client}"] = json.dumps(present)
    save_tensors(path, from_tensors(grids), classes)
