"""The digits part of hollowed_quality.py: tune on one domain's own images, draw from the tuned net, and measure what was drawn.

All four measures of a row are of the same adapter, on images that it did not see.

- judge: a classifier that knows the domain's real training images reads the drawn ones; share read as what was asked for.
- learned: the reverse; a classifier that knows the drawn images alone reads the domain's real test images.
- distance: Frechet distance between the drawn and the real test images in the judge's 84 penultimate features. It depends on the
  number of images, the same in all rows; the row `real` says what as many real training images get.
- loss: the whole net's error in predicting the noise of real test images, the same noise for every row of a domain and seed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from fedwarm.core.seeds import generator, numpy_generator
from fedwarm.data import Shard, load_shard
from fedwarm.data.heldout import draw
from fedwarm.data.sets.digits import DOMAINS
from fedwarm.data.settings import Data
from fedwarm.diffusion.foundation import Foundation, load_foundation
from fedwarm.diffusion.generate import Order, generate
from fedwarm.diffusion.lora import attached, load_adapter, targets_of
from fedwarm.diffusion.sentences import prompts
from fedwarm.diffusion.settings import Diffusion
from fedwarm.diffusion.tuners.hollowed.settings import NONE, Hollowed
from fedwarm.diffusion.tuners.hollowed.tune import tune_hollowed
from fedwarm.diffusion.tuning import Tuning, to_foundation
from fedwarm.models import Model, build_model
from fedwarm.training.evaluate import correct, predict
from fedwarm.training.loop import Plan, fit

JUDGE_STEPS = 400
NOISES = 4
PROMPT = "a photo of a {class}"
State = dict[str, Tensor]
Figures = dict[str, float]


def rows_of(settings: Diffusion, per_class: int, seed: int, domain: str, rows: list[str]) -> Iterator[tuple[str, Figures]]:
    """Each asked row with its figures: `real`, `none` (no tuning), `full` (LoRA on the whole net), or a depth."""
    client = DOMAINS.index(domain)
    shard = load_shard(Data(), seed, client, len(DOMAINS))
    judge = classifier(shard.train_images, shard.train_labels, seed)
    real = features(judge, shard.test_images)
    foundation = load_foundation(settings, "cpu")
    sentences = prompts(PROMPT, shard.classes)
    for row in rows:
        if row == "real":
            images, labels = some(shard, per_class, seed)
            read, more = correct(judge, shard.test_images, shard.test_labels) / len(shard.test_labels), {}
        else:
            tuning = Tuning(foundation, shard.train_images, shard.train_labels, sentences, settings, seed, client)
            state = {} if row == "none" else tune_hollowed(tuning, Hollowed(depth=NONE if row == "full" else int(row)))
            own = replace(settings, targets=targets_of(state)) if state else settings
            order = Order(sentences, range(len(sentences)), per_class, seed, client, shard.test_images.shape[-1])
            pool = generate(foundation, state or None, order, own)
            images, labels = pool.images, pool.labels
            read = correct(judge, images, labels) / len(labels)
            up = float(sum(t.numel() * t.itemsize for t in state.values()))
            more = {"loss": held_out_loss(foundation, state, own, shard, sentences, seed), "uplink_bytes": up}
        learned = correct(classifier(images, labels, seed), shard.test_images, shard.test_labels) / len(shard.test_labels)
        yield row, {"judge": read, "learned": learned, "distance": frechet(features(judge, images), real), **more}


def classifier(images: Tensor, labels: Tensor, seed: int) -> nn.Sequential:
    """LeNet-5 after the same number of steps, however many images there are."""
    batch = 32
    model = build_model(Model(name="lenet5"), int(labels.max()) + 1, images.shape[-1], seed)
    plan = Plan(math.ceil(JUDGE_STEPS / math.ceil(len(labels) / batch)), batch, 0.02, 0.9)
    fit(model, images, labels, plan, generator(seed, "judge"), stage="judge")
    assert isinstance(model, nn.Sequential)
    return model


def features(judge: nn.Sequential, images: Tensor) -> NDArray[np.float64]:
    """What the judge's last layer sees (n, 84)."""
    return predict(judge[:-1], images).double().numpy()


def frechet(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """|| m - m' ||^2 + tr(C + C' - 2 (C C')^(1/2)) of two sets of rows (n, d) (Heusel et al., arXiv 1706.08500, eq. 6)."""
    c, d = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    values, vectors = np.linalg.eigh(c)
    root = vectors * np.sqrt(values.clip(0)) @ vectors.T
    both = np.sqrt(np.linalg.eigvalsh(root @ d @ root).clip(0)).sum()
    return float(np.square(a.mean(0) - b.mean(0)).sum() + np.trace(c) + np.trace(d) - 2 * both)


def some(shard: Shard, per_class: int, seed: int) -> tuple[Tensor, Tensor]:
    """As many real training images as are drawn, in the classes' own proportions."""
    labels = shard.train_labels.numpy()
    surplus = max(0, len(labels) - per_class * len(shard.classes))
    kept = torch.from_numpy(~draw(labels, surplus, numpy_generator(seed, "real")))
    return shard.train_images[kept], shard.train_labels[kept]


@torch.no_grad()
def held_out_loss(
    foundation: Foundation, state: State, settings: Diffusion, shard: Shard, sentences: list[str], seed: int
) -> float:
    """Mean squared error of the predicted noise over NOISES draws for each test image."""
    unet, scheduler = foundation.pipe.unet, foundation.pipe.scheduler
    latents = foundation.encode(to_foundation(shard.test_images, foundation.image_size)).repeat(NOISES, 1, 1, 1)
    context = foundation.embed(sentences)[shard.test_labels.repeat(NOISES)]
    draws = generator(seed, "held-out")
    noise = torch.randn(latents.shape, generator=draws)
    steps = torch.randint(scheduler.config.num_train_timesteps, (len(latents),), generator=draws)
    noisy = scheduler.add_noise(latents, noise, steps)

    def error() -> float:
        parts = zip(noisy.split(64), steps.split(64), context.split(64), strict=True)
        return F.mse_loss(torch.cat([unet(*part).sample for part in parts]), noise).item()

    if not state:
        return error()
    with attached(unet, settings, 0, "measure"):
        load_adapter(unet, state)
        return error()
