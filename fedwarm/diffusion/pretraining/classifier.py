"""A classifier of what a foundation learned from: the start that knows as much as a foundation does, without any drawing."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedwarm.core.seeds import generator
from fedwarm.diffusion.pretraining.captions import PublicPart
from fedwarm.diffusion.pretraining.embedded import Glyphs
from fedwarm.diffusion.pretraining.glyphs import SIZE
from fedwarm.diffusion.pretraining.untrained import EMBEDDED_RECIPE
from fedwarm.models import Model, build_model
from fedwarm.training.evaluate import correct
from fedwarm.training.loop import fit
from fedwarm.training.plan import Plan

DIGITS, HELD = 10, 2000
CPU = torch.device("cpu")


def renders(count: int, size: int, seed: int) -> tuple[Tensor, Tensor]:
    """Digits of fonts and of the pen as the embedded foundation saw them: uint8 (n, 3, size, size), and which they are (n,)."""
    images, labels = Glyphs.of(EMBEDDED_RECIPE).labelled(count, generator(seed, "classifier"))
    if size != SIZE:
        images = F.interpolate(images, size=(size, size), mode="area" if size < SIZE else "bicubic").clamp(-1, 1)
    return ((images + 1) * 127.5).round().to(torch.uint8), labels


def trained(
    model: Model, plan: Plan, images: Tensor, labels: Tensor, classes: int, seed: int, device: torch.device = CPU
) -> tuple[nn.Module, float]:
    """A classifier that learned from public images alone, and its accuracy on some that were kept from it.

    Args:
        model, plan: which one, and how it is trained.
        images, labels: uint8 (n, 3, S, S) and (n,); up to 2,000 of them, and a sixth at most, are kept to judge it.
        device: where it trains, and is afterwards.
    """
    rows = torch.randperm(len(labels), generator=generator(seed, "classifier-held"))
    held, rest = rows[: min(HELD, len(labels) // 6)], rows[min(HELD, len(labels) // 6) :]
    net = build_model(model, classes, images.shape[-1], seed).to(device)
    fit(net, images[rest], labels[rest], plan, generator(seed, "classifier-order"), stage="classifier")
    return net, correct(net, images[held], labels[held]) / max(1, len(held))


def of_public(part: PublicPart) -> tuple[Tensor, Tensor, int]:
    """Images, labels and number of classes of a public part."""
    return part.images, part.labels, len(part.phrases)
