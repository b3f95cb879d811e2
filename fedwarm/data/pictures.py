"""One picture of a file as pixels: upright, its first frame, laid on a ground where it is transparent, its own range of values
brought to 8 bits.

8 bits are taken as they are, palettes and other colour spaces as PIL converts them to RGB. Of files with 16 bits in each of
several colours PIL hands on the upper 8.
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fedwarm.data.settings import Data
from fedwarm.settings.fields import SettingError, near

if TYPE_CHECKING:
    from PIL.Image import Image

WHITE = (255, 255, 255)
ALPHA = ("RGBA", "LA", "PA", "La", "RGBa")


@dataclass(frozen=True)
class Reading:
    """How a data set is read, by the settings `data.*`; `background` is a colour (red, green, blue)."""

    background: tuple[int, int, int] = WHITE
    bits: int = 0
    missing_labels: str = "refuse"
    skip_broken: bool = False

    @classmethod
    def of(cls, data: Data) -> Reading:
        """Out of the settings; SettingError where `data.background` is no colour."""
        return cls(colour(data.background), data.bits, data.missing_labels, data.skip_broken)


def colour(text: str) -> tuple[int, int, int]:
    """A colour's red, green and blue by its name or by #rrggbb."""
    from PIL import ImageColor

    try:
        red, green, blue = ImageColor.getrgb(text)[:3]
    except ValueError:
        known = near(text.lower(), list(ImageColor.colormap))
        raise SettingError(f"data.background = {text!r} is no colour{known}; give a name, e.g. white, or #rrggbb") from None
    return red, green, blue


class Picture(NamedTuple):
    """A picture as it was opened, and whether the lower 8 of its 16 bits a colour are gone."""

    image: Image
    cut: bool = False

    @property
    def kind(self) -> str:
        """How deep it is: `whole` numbers or `real` ones of one channel, the `upper` half of 16 bits, or `plain` 8 bits."""
        if self.image.mode.startswith("I"):
            return "whole"
        return "real" if self.image.mode == "F" else "upper" if self.cut else "plain"

    def values(self) -> np.ndarray[Any, Any]:
        """Its numbers; the upper halves at their true size."""
        found = np.asarray(self.image)
        if self.kind != "upper":
            return found
        if found.ndim == 2:
            return found.astype(np.int64) << 8
        colours = found[..., : len(self.image.getbands()) - (self.image.mode in ALPHA)]
        return colours.astype(np.int64) << 8


def opened(value: Mapping[str, Any]) -> Picture:
    """The first frame of a picture's bytes or file, upright; whatever PIL raises where it is none."""
    from PIL import Image, ImageOps

    content, path = value["bytes"], value["path"]
    if content is None and path and "://" in path and not os.path.exists(path):
        from datasets import Image as Feature

        return Picture(Feature().decode_example(dict(value)))
    with Image.open(io.BytesIO(content) if content is not None else path) as file:
        cut = file.mode.startswith(("RGB", "L")) and any(";16" in str(tile[3]) for tile in file.tile)
        file.load()
        return Picture(ImageOps.exif_transpose(file) if file.getexif().get(0x0112) is not None else file.copy(), cut)


def pixels(image: Image, size: int, background: tuple[int, int, int] = WHITE, top: float = 65535.0) -> Tensor:
    """A picture as uint8 RGB (3, size, size).

    Args:
        image: of any mode.
        background: what shows through where it is transparent.
        top: the value that becomes 255, where it has more than 8 bits a channel.
    """
    from PIL.Image import Resampling

    small = flat(image, background, top).resize((size, size), Resampling.BILINEAR)
    return torch.from_numpy(np.array(small)).permute(2, 0, 1)


def proportioned(image: Image, side: int, background: tuple[int, int, int] = WHITE, top: float = 65535.0) -> Tensor:
    """As `pixels`, in its own proportions with the shorter side `side` pixels long: uint8 (3, h, w)."""
    from PIL.Image import Resampling

    width, height = (max(side, round(side * length / min(image.size))) for length in image.size)
    small = flat(image, background, top).resize((width, height), Resampling.BILINEAR)
    return torch.from_numpy(np.array(small)).permute(2, 0, 1)


def flat(image: Image, background: tuple[int, int, int], top: float) -> Image:
    """The picture in RGB, without transparency and with 8 bits."""
    from PIL import Image as Images

    cover = image
    if image.mode.startswith("I") or image.mode == "F":
        values, clear = np.asarray(image), image.info.get("transparency")
        image = Images.fromarray(np.rint(values.astype(np.float64) * (255 / top)).clip(0, 255).astype(np.uint8))
        if not isinstance(clear, int):
            return image.convert("RGB")
        cover = Images.fromarray(np.where(values == clear, 0, 255).astype(np.uint8))
    elif image.mode in ALPHA or "transparency" in image.info:
        image = cover = image.convert("LA" if image.mode == "La" else "RGBA").convert("RGBA")
    else:
        return image.convert("RGB")
    ground = Images.new("RGB", image.size, background)
    ground.paste(image.convert("RGB"), mask=cover)
    return ground
