"""A client's pictures as an adapter learns from them: squares of originals at the foundation's size, and mirror images.

As in scripts that tune Stable Diffusion: the shorter side is brought to the foundation's size, then a square of that size is
taken from the middle or from a random place, and half of the examples are mirrored. Here the squares are drawn once, so that
each is encoded once: several of every picture, each as likely.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from fedwarm.data.originals import Originals
from fedwarm.diffusion.settings import Diffusion

PLACES = 4
MIDDLE = 0.5


class Views:
    """Squares of pictures, `each` of one picture after the other, made when they are asked for.

    Args:
        images: uint8 (n, 3, S, S), the pictures as the client's classifier has them.
        originals: the same as they came; None: there are none but `images`.
        size: height and width of what is made of originals.
        settings: `crop` and `flip`.
        draws: for random places.
        single: one of each picture, as private training counts pictures: its place and whether it is mirrored are drawn.
    """

    def __init__(
        self, images: Tensor, originals: Originals | None, size: int, settings: Diffusion, draws: torch.Generator, single: bool
    ) -> None:
        self.images, self.originals, self.size = images, originals, size
        count, cut = len(images), settings.crop == "random" and originals is not None
        places = 1 if single or not cut else PLACES
        spots = torch.rand(count, places, 2, generator=draws) if cut else torch.full((count, places, 2), MIDDLE)
        self.mirrored = torch.zeros(count, places, dtype=torch.bool)
        if settings.flip and single:
            self.mirrored = torch.rand(count, places, generator=draws) < MIDDLE
        elif settings.flip:
            spots = spots.repeat_interleave(2, 1)
            self.mirrored = torch.tensor([False, True]).repeat(count, places)
        self.spots = spots

    @property
    def each(self) -> int:
        """How many there are of one picture."""
        return self.spots.shape[1]

    @property
    def whole(self) -> Tensor | Views:
        """The images themselves, where nothing is made of them."""
        plain = self.originals is None and not self.mirrored.any()
        return self.images if plain else self

    def __len__(self) -> int:
        return len(self.images) * self.each

    def split(self, together: int, first: int = 0) -> Iterator[Tensor]:
        """Those from number `first` on in their order, some at a time: uint8 (k, 3, size, size), or of the images' own size."""
        for start in range(first, len(self), together):
            yield self._made(range(start, min(start + together, len(self))))

    def _made(self, which: Sequence[int]) -> Tensor:
        rows = sorted({number // self.each for number in which})
        pictures = self.images[rows] if self.originals is None else self.originals.at(rows, self.size)
        found = dict(zip(rows, pictures, strict=True))
        return torch.stack([self._one(found[number // self.each], *divmod(number, self.each)) for number in which])

    def _one(self, picture: Tensor, row: int, view: int) -> Tensor:
        square = cut(picture, *self.spots[row, view].tolist())
        return square.flip(-1) if self.mirrored[row, view] else square


def parts(images: Tensor | Views, together: int, first: int) -> Iterator[Tensor]:
    """Images or views from number `first` on, so many at a time."""
    if isinstance(images, Views):
        return images.split(together, first)
    return (images[start : start + together] for start in range(first, len(images), together))


def cut(picture: Tensor, down: float, across: float) -> Tensor:
    """The largest square of a picture (3, h, w), whose place is a share in [0, 1) of the way that it can go down and across."""
    height, width = picture.shape[1:]
    side = min(height, width)
    top, left = int(down * (height - side + 1)), int(across * (width - side + 1))
    return picture[:, top : top + side, left : left + side]
