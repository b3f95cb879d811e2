"""Small data sets on disk, in a cache of their own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import datasets
import pytest

from fedwarm.data.hub import hub_table
from fedwarm.data.settings import Data

MakePictures = Callable[..., Data]


@pytest.fixture
def pictures_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakePictures:
    """Writes files of pictures, as bytes, to a parquet folder, and gives the settings that read it; labels are 0, 1 in turn."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()

    def make(files: Sequence[bytes], labels: Sequence[Any] | None = None, names: Sequence[str] = (), **changes: Any) -> Data:
        folder = tmp_path / "pictures"
        folder.mkdir(exist_ok=True)
        paths = names or [None] * len(files)
        rows = {
            "image": [{"bytes": content, "path": path} for content, path in zip(files, paths, strict=True)],
            "label": [i % 2 for i in range(len(files))] if labels is None else list(labels),
        }
        hub_table.cache_clear()
        table = datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image(decode=False))
        table.to_parquet(folder / "train.parquet")
        return Data(**{"name": str(folder), "partition": "iid", "image_size": 8, **changes})

    return make
