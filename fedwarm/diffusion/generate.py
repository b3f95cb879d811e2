"""Fill a pool: for one client and its classes, so many images per class, from its adapter or from prompts alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedwarm.core.seeds import derive
from fedwarm.diffusion.foundation import Foundation
from fedwarm.diffusion.lora import FIRST, attached, load_adapter
from fedwarm.diffusion.pool import Pool
from fedwarm.diffusion.sampling import Through, drawn_anew, sample
from fedwarm.diffusion.settings import Diffusion


@dataclass(frozen=True)
class Order:
    """Images for one client: so many of each listed class.

    Attributes:
        prompts: one sentence per class of the data set.
        classes: the classes to draw.
        per_class: images of each.
        seed, client: the run's seed, and whose adapter draws.
        size: height and width in pixels.
        draw: counts repeated generations for the same client.
    """

    prompts: Sequence[str]
    classes: Sequence[int]
    per_class: int
    seed: int
    client: int
    size: int
    draw: int = 0

    def labels(self) -> list[int]:
        """The class of each image."""
        return [c for c in self.classes for _ in range(self.per_class)]

    def seeds(self) -> list[int]:
        """The seed of each image's noise."""
        keys = ((c, i) for c in self.classes for i in range(self.per_class))
        return [derive(self.seed, "image", self.client, c, i, self.draw) for c, i in keys]


def generate(
    foundation: Foundation,
    adapter: Mapping[str, Tensor] | None,
    order: Order,
    settings: Diffusion,
    through: Through = drawn_anew,
) -> Pool:
    """The images of an order.

    An image is a function of (seed, client, class, index, draw), the weights and the sampler; not of the batch size.

    Args:
        adapter: the client's matrices; None: the bare foundation.
        order: for whom, and what.
        settings: the sampler's, and those that the adapter is attached by.
        through: gives a batch (see `sample`).

    Raises:
        ValueError: the adapter does not fit the foundation.
    """
    labels, seeds = order.labels(), order.seeds()
    wanted = [order.prompts[c] for c in labels]
    if adapter is None:
        images = sample(foundation, wanted, seeds, settings, order.size, through=through)
    else:
        with attached(foundation.net, settings, order.seed, FIRST, order.client):
            load_adapter(foundation.net, adapter)
            images = sample(foundation, wanted, seeds, settings, order.size, through=through)
    told, drawn = torch.tensor(labels, dtype=torch.int64), torch.tensor(seeds, dtype=torch.int64)
    return Pool(images, told, torch.full_like(told, order.client), drawn, tuple(order.prompts))
