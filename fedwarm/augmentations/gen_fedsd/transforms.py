"""Random crops, flips and colours of images: what augmentation without a generator can do for a class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fedwarm.settings.fields import SettingError

KINDS = ("crop", "flip", "colour")
MARGIN = 8  # a crop is moved by up to an eighth of the side
DRAWN = 6  # numbers of an image: two offsets, flip, brightness, contrast, saturation
BRIGHTNESS, CONTRAST, SATURATION = 0.2, 0.3, 0.3


def kinds(text: str) -> frozenset[str]:
    """The kinds that a setting names.

    Raises:
        SettingError: one is unknown, or there is none.
    """
    found = frozenset(part.strip() for part in text.split(",") if part.strip())
    if not found or not found <= set(KINDS):
        raise SettingError(f"gen-fedsd.transforms = {text!r} is not a list of transforms; choose from {','.join(KINDS)}")
    return found


def transformed(images: Tensor, indices: Sequence[int], kinds: frozenset[str], draws: np.random.Generator) -> Tensor:
    """Transforms number `indices` of some images; each is a function of the images, its index and the generator's beginning.

    Args:
        images: uint8 (n, 3, S, S); transform i begins with number i modulo n of a random order.
        indices: (m,).
        kinds: what is done.
        draws: a fresh generator.

    Returns:
        uint8 (m, 3, S, S); none where there are no images.
    """
    if not len(images) or not len(indices):
        return images[:0].clone()
    order = draws.permutation(len(images))
    which = np.asarray(indices, dtype=np.int64)
    numbers = torch.from_numpy(draws.random((int(which.max()) + 1, DRAWN), dtype=np.float32)[which])
    out = images[torch.from_numpy(order[which % len(images)])].float()
    if "crop" in kinds:
        out = _cropped(out, numbers[:, :2])
    if "flip" in kinds:
        out = torch.where(_wide(numbers[:, 2] < 0.5), out.flip(3), out)
    if "colour" in kinds:
        out = _coloured(out, numbers[:, 3:])
    return out.clamp(0, 255).round().to(torch.uint8)


def _cropped(images: Tensor, numbers: Tensor) -> Tensor:
    """Moved by whole pixels, the margin filled by reflection."""
    n, side = len(images), images.shape[-1]
    reach = max(1, side // MARGIN)
    wide = F.pad(images, (reach,) * 4, mode="reflect")
    start = (numbers * (2 * reach + 1)).long().clamp(max=2 * reach)
    rows, columns = (start[:, i, None] + torch.arange(side) for i in (0, 1))
    return wide[
        torch.arange(n)[:, None, None, None], torch.arange(3)[:, None, None], rows[:, None, :, None], columns[:, None, None]
    ]


def _coloured(images: Tensor, numbers: Tensor) -> Tensor:
    """Brightness, contrast about the mean and saturation about the grey picture, each by a factor near 1."""
    brightness, contrast, saturation = (
        _wide(1 + reach * (2 * numbers[:, i] - 1)) for i, reach in enumerate((BRIGHTNESS, CONTRAST, SATURATION))
    )
    out = images * brightness
    mean, grey = out.mean((1, 2, 3), keepdim=True), out.mean(1, keepdim=True)
    return (grey + (out - grey) * saturation - mean) * contrast + mean


def _wide(values: Tensor) -> Tensor:
    return values[:, None, None, None]
