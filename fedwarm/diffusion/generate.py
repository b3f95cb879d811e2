"""Fill a pool: for one client and its classes, so many images per class, from its adapter or from prompts alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fedwarm.core.seeds import derive
from fedwarm.diffusion.foundation import Foundation
from fedwarm.diffusion.lora import FIRST, attached, load_adapter
from fedwarm.diffusion.pool import Pool
from fedwarm.diffusion.sampling import Through, drawn_anew, sample
from fedwarm.diffusion.settings import Diffusion


def generate(
    foundation: Foundation,
    adapter: Mapping[str, Tensor] | None,
    prompts: Sequence[str],
    classes: Sequence[int],
    per_class: int,
    settings: Diffusion,
    *,
    seed: int,
    client: int,
    size: int,
    draw: int = 0,
    through: Through = drawn_anew,
) -> Pool:
    """`per_class` images of each listed class.

    An image is a function of (seed, client, class, index, draw), the weights and the sampler; not of the batch size.

    Args:
        adapter: the client's matrices; None: the bare foundation.
        prompts: one sentence per class of the data set.
        classes: the classes to draw.
        draw: counts repeated generations for the same client.
        through: what gives a batch (see `sample`).

    Raises:
        ValueError: the adapter does not fit the foundation.
    """
    labels = [c for c in classes for _ in range(per_class)]
    seeds = [derive(seed, "image", client, c, i, draw) for c in classes for i in range(per_class)]
    wanted = [prompts[c] for c in labels]
    if adapter is None:
        images = sample(foundation, wanted, seeds, settings, size, through=through)
    else:
        with attached(foundation.pipe.unet, settings, seed, FIRST, client):
            load_adapter(foundation.pipe.unet, adapter)
            images = sample(foundation, wanted, seeds, settings, size, through=through)
    told, drawn = torch.tensor(labels, dtype=torch.int64), torch.tensor(seeds, dtype=torch.int64)
    return Pool(images, told, torch.full_like(told, client), drawn, tuple(prompts))
