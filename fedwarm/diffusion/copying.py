"""Do drawn images copy what their adapter learned from? The nearest training image against the nearest one that was held out.

After Meehan, Chaudhuri, Dasgupta, "A Non-Parametric Test to Detect Data-Copying in Generative Models", AISTATS 2020, arXiv
2004.05675: where nothing is copied, a drawn image is as likely to be nearer to a training image as to a held-out one, given as
many of either; more than a half says that training images come back. Distances are Euclidean, of pixels in [0, 1].
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fedwarm.core.seeds import generator


@dataclass(frozen=True)
class Copying:
    """What was found of one client's drawn images.

    Attributes:
        drawn: how many of them were looked at.
        references: training images, and as many held-out ones, that they were held against.
        nearer: share of them that are nearer to a training image, ties half.
        training, held: median distance to the nearest of either.
    """

    drawn: int
    references: int
    nearer: float
    training: float
    held: float

    @property
    def error(self) -> float:
        """Standard error of `nearer` where nothing is copied and drawn images are independent."""
        return float(0.5 / self.drawn**0.5)


def copying(drawn: Tensor, training: Tensor, held: Tensor, seed: int, most: int = 400) -> Copying | None:
    """Hold drawn images against as many training images as held-out ones; None where there are none of one kind.

    Args:
        drawn, training, held: uint8 (.., 3, S, S).
        seed: of which images are taken where there are more.
        most: drawn images that are looked at, at most, a random part.
    """
    count = min(len(training), len(held))
    if not count or not len(drawn):
        return None
    chosen = [_some(images, limit, seed) for images, limit in ((drawn, most), (training, count), (held, count))]
    asked, known, unknown = (images.flatten(1).float() / 255 for images in chosen)
    near, far = (torch.cdist(asked, references).min(1).values for references in (known, unknown))
    nearer = (near < far).double() + 0.5 * (near == far).double()
    return Copying(len(asked), count, float(nearer.mean()), float(near.median()), float(far.median()))


def _some(images: Tensor, count: int, seed: int) -> Tensor:
    """At most so many of the images, at random."""
    return images[torch.randperm(len(images), generator=generator(seed, "copying"))[:count]]
