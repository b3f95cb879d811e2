"""What an encoder is worth as it is: its features, nearest neighbours among them, and a linear probe on them.

Both need labels, and neither changes the encoder. Neighbours vote by exp(cosine / .1) (Wu, Xiong, Yu, Lin, arXiv 1805.01978).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedwarm.models import to_input
from fedwarm.training.light import Light

BATCH, VOTE, DECAY, SMALLEST = 512, 0.1, 1e-4, 1e-6


@torch.no_grad()
def features(encoder: nn.Module, images: Tensor) -> Tensor:
    """Features (n, d) on the CPU of uint8 images (n, 3, S, S)."""
    device = next(iter(encoder.parameters()), torch.empty(0)).device
    encoder.eval()
    return torch.cat([encoder(to_input(part.to(device))).flatten(1).cpu() for part in images.split(BATCH)])


def nearest(known: Tensor, labels: Tensor, asked: Tensor, classes: int, neighbours: int) -> Tensor:
    """The class (m,) that the nearest of the known features (n, d) by cosine vote for, of each of those asked for (m, d)."""
    near = F.normalize(asked, dim=1) @ F.normalize(known, dim=1).T
    weights, rows = near.topk(min(neighbours, len(known)), dim=1)
    votes = torch.zeros(len(asked), classes).scatter_add_(1, labels[rows], (weights / VOTE).exp())
    return votes.argmax(1)


def right_by_neighbours(
    encoder: nn.Module, known: tuple[Tensor, Tensor], asked: tuple[Tensor, Tensor], classes: int, neighbours: int
) -> int:
    """How many labels (m,) of asked images the nearest of a client's known images and labels are right about; 0 of none."""
    if not (len(known[1]) and len(asked[1])):
        return 0
    found = nearest(features(encoder, known[0]), known[1], features(encoder, asked[0]), classes, neighbours)
    return int((found == asked[1]).sum())


def probe(known: Tensor, labels: Tensor, classes: int, epochs: int) -> Callable[[Tensor], Tensor]:
    """Logistic regression on features (n, d) and labels (n,), by so many iterations of L-BFGS; gives classes (m,) of features.

    Features are brought to mean 0 and standard deviation 1; weights decay by 1e-4.
    """
    mean, scale = known.mean(0), known.std(0, correction=0) + SMALLEST
    seen = (known - mean) / scale
    weights, biases = (torch.zeros(classes, *shape, requires_grad=True) for shape in (known.shape[1:], ()))
    optimiser = _Lbfgs([weights, biases], max_iter=epochs, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        found = F.cross_entropy(seen @ weights.T + biases, labels) + DECAY / 2 * weights.square().sum()
        found.backward()
        return found

    optimiser.step(loss)
    return lambda asked: ((asked - mean) / scale @ weights.detach().T + biases.detach()).argmax(1)


class _Lbfgs(Light, torch.optim.LBFGS):
    """`torch.optim.LBFGS` without torch's compiler."""
