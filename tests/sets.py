"""Small data sets for tests: folders of parquet files with noisy pictures whose shade tells their class."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from PIL import Image

SIZE = 8


def picture(label: int, number: int) -> dict[str, bytes]:
    """A PNG of its class's shade with noise of its own, a function of both numbers."""
    draws = np.random.default_rng([label, number])
    pixels = (40 + 70 * label + draws.integers(-30, 30, (SIZE, SIZE, 3))).clip(0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return {"bytes": file.getvalue()}


def write_split(folder: Path, split: str, labels: Sequence[Any], start: int = 0, **more: Any) -> None:
    """Write a split: one picture for each label, a number or a word, numbered from `start`, and more columns."""
    datasets.disable_progress_bars()
    folder.mkdir(parents=True, exist_ok=True)
    codes = [label if isinstance(label, int) else sorted(set(map(str, labels))).index(str(label)) for label in labels]
    columns = {"image": [picture(code, start + i) for i, code in enumerate(codes)], "label": list(labels), **more}
    features: dict[str, Any] = {name: datasets.Value("string") for name in more}
    kind = datasets.Value("int64" if isinstance(labels[0], int) else "string")
    whole = datasets.Features({"image": datasets.Image(), "label": kind, **features})
    datasets.Dataset.from_dict(columns, features=whole).to_parquet(folder / f"{split}.parquet")


Row = tuple[str, int]  # the word for a class, and the picture's number


def write_site(folder: Path, form: str, rows: Sequence[Row], words: Sequence[str], split: str = "train") -> None:
    """Write the rows of a site as `classes` (a folder each), `csv` (which names the pictures) or `parquet`.

    Args:
        words: all sites' classes, whose places here are the pictures' shades; a site writes those that it has.
    """
    shades = {word: place for place, word in enumerate(words)}
    folder.mkdir(parents=True, exist_ok=True)
    if form == "parquet":
        write_rows(folder / f"{split}.parquet", rows, words)
        return
    files = [f"{split}/{word if form == 'classes' else 'pictures'}/{word}-{number:03}.png" for word, number in rows]
    for file, (word, number) in zip(files, rows, strict=True):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(picture(shades[word], number)["bytes"])
    if form == "csv":
        lines = [f"{file};{word}" for file, (word, _) in zip(files, rows, strict=True)]
        (folder / f"{split}.csv").write_text("\n".join(["file;label", *lines]) + "\n", encoding="utf-8")


def write_rows(path: Path, rows: Sequence[Row], words: Sequence[str], **more: Any) -> None:
    """Write rows as a file of parquet with the words as labels, and more columns of text."""
    datasets.disable_progress_bars()
    shades = {word: place for place, word in enumerate(words)}
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = {"image": [picture(shades[word], number) for word, number in rows], "label": [word for word, _ in rows], **more}
    kinds = {"image": datasets.Image(), **{name: datasets.Value("string") for name in ("label", *more)}}
    datasets.Dataset.from_dict(columns, features=datasets.Features(kinds)).to_parquet(path)
