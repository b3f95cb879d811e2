"""Pictures of the report as text that stands inside an HTML page."""

from __future__ import annotations

import base64
import io
import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

PICTURE_PIXELS = 96


def mosaic(images: NDArray[np.uint8]) -> str:
    """Up to four pictures (n, 3, S, S), uint8, in two columns, as the `data:` address of a PNG.

    Small pictures are enlarged by a whole factor without smoothing, large ones reduced.
    """
    tiles = [_tile(image) for image in images[:4]]
    side, gap = tiles[0].width, max(2, tiles[0].width // 24)
    columns, rows = min(2, len(tiles)), math.ceil(len(tiles) / 2)
    sheet = Image.new("RGBA", (columns * (side + gap) - gap, rows * (side + gap) - gap), (0, 0, 0, 0))
    for i, tile in enumerate(tiles):
        sheet.paste(tile, (i % 2 * (side + gap), i // 2 * (side + gap)))
    buffer = io.BytesIO()
    sheet.save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _tile(image: NDArray[np.uint8]) -> Image.Image:
    """One picture (3, S, S) as a square of about `PICTURE_PIXELS`."""
    picture = Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0)))
    if picture.width > PICTURE_PIXELS:
        return picture.resize((PICTURE_PIXELS, PICTURE_PIXELS), Image.Resampling.LANCZOS)
    factor = max(1, PICTURE_PIXELS // picture.width)
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
