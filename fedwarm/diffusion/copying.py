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

LOTS, MOST = 200, 400


@dataclass(frozen=True)
class Copying:
    """What was found of one client's drawn images.

    Attributes:
        drawn: how many of them were looked at.
        references: training images, and as many held-out ones, that they were held against.
        nearer: share of them that are nearer to a training image, ties half.
        training, held: median distance to the nearest of either.
        error: standard error of `nearer` where nothing is copied, by what it comes to where the same images are made training
            images and held-out ones by lot; so it holds that all drawn images are held against the same few.
    """

    drawn: int
    references: int
    nearer: float
    training: float
    held: float
    error: float


def copying(drawn: Tensor, training: Tensor, held: Tensor, seed: int) -> Copying | None:
    """Hold drawn images against as many training images as held-out ones; None where there are none of one kind.

    Args:
        drawn, training, held: uint8 (.., 3, S, S); of the drawn ones at most MOST are looked at, a random part.
        seed: of which images are taken where there are more.
    """
    count = min(len(training), len(held))
    if not count or not len(drawn):
        return None
    chosen = [_some(images, limit, seed) for images, limit in ((drawn, MOST), (training, count), (held, count))]
    asked, known, unknown = (images.flatten(1).float() / 255 for images in chosen)
    distances = torch.cdist(asked, torch.cat([known, unknown]))
    near, far = (part.min(1).values for part in distances.split(count, 1))
    nearer = (near < far).double() + 0.5 * (near == far).double()
    lots = torch.rand(LOTS, 2 * count, generator=generator(seed, "lots")).argsort(1) < count
    shares = lots[:, distances.argmin(1)].double().mean(1)
    error = float((shares - 0.5).square().mean().sqrt())
    return Copying(len(asked), count, float(nearer.mean()), float(near.median()), float(far.median()), error)


def _some(images: Tensor, count: int, seed: int) -> Tensor:
    """At most so many of the images, at random."""
    return images[torch.randperm(len(images), generator=generator(seed, "copying"))[:count]]
