"""The embedded data set: scikit-learn's handwritten digits as colour pictures in four looks, each a domain of its own.

1,797 real scans of 8x8 pixels and 17 shades (E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998),
read from scikit-learn's file without importing scikit-learn. Each scan belongs to exactly one domain, and every domain has an
equal part of every class. A scan is enlarged by bicubic interpolation with a margin of half a pixel, its edges are steepened,
and the stroke is laid over the ground in the colours of its domain, slightly different in every picture:

- chalk: light grey stroke, nearly black ground
- ink: dark bluish stroke, light warm ground
- neon: bright stroke of a random hue, dark ground of another hue
- tilt: thickened light stroke, turned by 12 to 28 degrees to either side, mid blue-grey ground

Which scan has which look, and its colours, come from a fixed seed: the data set is the same in every run.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fedwarm.core.seeds import generator, numpy_generator
from fedwarm.data.scans import scans, strokes
from fedwarm.data.settings import Data
from fedwarm.data.tables import Column, Rows, Table
from fedwarm.settings.fields import SettingError, near
from fedwarm.settings.registry import component

CLASSES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
DOMAINS = ("chalk", "ink", "neon", "tilt")
SEED = 1797


def domains(labels: Rows) -> Rows:
    """The domain of each scan (n,): every class is shuffled and dealt in turn, the turn going on from class to class."""
    shuffled = numpy_generator(SEED, "domains").permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    domain = np.empty(len(labels), dtype=np.int64)
    domain[by_class] = np.arange(len(labels)) % len(DOMAINS)
    return domain


@component(labels=lambda data: scans()[1])
def digits(data: Data) -> Table:
    """scikit-learn's handwritten digits as colour pictures in four looks, each a domain of its own; embedded."""
    return digits_table(data.image_size)


@lru_cache(maxsize=1)
def digits_table(size: int) -> Table:
    """The digits at size x size pixels; drawn once in a process."""
    shades, labels = scans()
    domain = domains(labels)
    images = torch.empty(len(labels), 3, size, size, dtype=torch.uint8)
    for j, look in enumerate(DOMAINS):
        rows = torch.from_numpy(np.flatnonzero(domain == j))
        images[rows] = draw(shades[rows], look, size)
    columns = {"label": Column(labels, CLASSES), "domain": Column(domain, DOMAINS)}

    def column(name: str) -> Column:
        if name not in columns:
            raise SettingError(f"data.name = 'digits' has no column {name!r}{near(name, list(columns))}; it has label, domain")
        return columns[name]

    return Table("digits", columns["label"], ("image", *columns), column, lambda rows: images[torch.from_numpy(rows)])


def draw(shades: Tensor, look: str, size: int) -> Tensor:
    """Scans uint8 (n, 8, 8) in one of the looks: uint8 (n, 3, size, size)."""
    draws = generator(SEED, "look", look)
    n = len(shades)
    if look == "tilt":
        side = torch.where(torch.rand(n, generator=draws) < 0.5, -1.0, 1.0)
        cover = thickened(strokes(shades, size, 1.2, side * _between(n, 12, 28, draws)), size)
    else:
        cover = strokes(shades, size, 9 / 8, torch.zeros(n))
    stroke, ground = (colour[:, :, None, None] for colour in colours(n, look, draws))
    picture = ground + (stroke - ground) * cover
    return (picture.clamp(0, 1) * 255).round().to(torch.uint8)


def thickened(cover: Tensor, size: int) -> Tensor:
    """Strokes wider by some 1/32 of the picture on every side, their new edge softer: (n, 1, size, size), the same."""
    reach = max(1, round(size / 32))
    return torch.lerp(cover, F.max_pool2d(cover, 2 * reach + 1, stride=1, padding=reach), 0.7)


def colours(n: int, look: str, draws: torch.Generator) -> tuple[Tensor, Tensor]:
    """Stroke and ground of n pictures in one of the looks, RGB (n, 3) in [0, 1] each."""
    if look == "neon":
        hue = _between(n, 0, 1, draws)
        stroke = from_hsv(hue, _between(n, 0.65, 0.95, draws), _between(n, 0.9, 1, draws))
        other = hue + _between(n, 0.3, 0.7, draws)
        return stroke, from_hsv(other, _between(n, 0.6, 0.9, draws), _between(n, 0.14, 0.3, draws))
    tints = {
        "chalk": ((0.72, 0.96), (1.0, 1.0, 0.97), (0.03, 0.13), (1.0, 1.0, 1.0)),
        "ink": ((0.08, 0.28), (0.6, 0.7, 1.3), (0.82, 0.97), (1.0, 0.98, 0.92)),
        "tilt": ((0.85, 1.0), (1.0, 1.0, 1.0), (0.36, 0.5), (0.85, 1.0, 1.2)),
    }
    high, stroke_tint, low, ground_tint = tints[look]
    stroke = _between(n, *high, draws)[:, None] * torch.tensor(stroke_tint)
    return stroke, _between(n, *low, draws)[:, None] * torch.tensor(ground_tint)


def from_hsv(hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    """Hue in turns, saturation and value (n,) as RGB (n, 3)."""
    sixth = (torch.tensor([5.0, 3.0, 1.0]) + 6 * hue[:, None]) % 6
    return value[:, None] * (1 - saturation[:, None] * torch.minimum(sixth, 4 - sixth).clamp(0, 1))


def _between(n: int, low: float, high: float, draws: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(n, generator=draws)


COMPONENT = digits
