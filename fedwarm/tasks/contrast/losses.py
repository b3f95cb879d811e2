"""Losses of two views, on vectors (2 b, w) whose first half are the first views and whose second half are the second ones.

NT-Xent: Chen, Kornblith, Norouzi, Hinton, "A Simple Framework for Contrastive Learning of Visual Representations", ICML 2020,
arXiv 2002.05709, eq. 1. One direction of it: van den Oord, Li, Vinyals, arXiv 1807.03748. Spectral: HaoChen, Wei, Gaidon, Ma,
arXiv 2106.04156. SimSiam: Chen, He, arXiv 2011.10566. Labels as positives: Khosla et al., arXiv 2004.11362, eq. 2.

`groups` (b,) limits who is contrasted with whom: examples of one group alone are each other's candidates.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

NOBODY = -torch.inf


class Contrasted(NamedTuple):
    """One value for each anchor (m,): its loss, and how many candidates its positive was among."""

    losses: Tensor
    candidates: Tensor


def nt_xent(vectors: Tensor, groups: Tensor, temperature: float) -> Contrasted:
    """-log exp(s_ij / t) / sum_k exp(s_ik / t) for each of the 2 b vectors i, its other view j, and all k != i of its group.

    s are cosines. The candidates, j among them, are 2 b - 1 where all are of one group; alone in a group an anchor's loss is 0.
    """
    two = torch.cat([groups, groups])
    open_to = (two[:, None] == two[None]) & ~torch.eye(len(two), dtype=torch.bool, device=two.device)
    scores = cosines(vectors, vectors) / temperature
    positives = torch.cat([scores.diagonal(len(groups)), scores.diagonal(-len(groups))])
    return Contrasted(scores.masked_fill(~open_to, NOBODY).logsumexp(1) - positives, open_to.sum(1))


def infonce(vectors: Tensor, groups: Tensor, temperature: float) -> Contrasted:
    """-log exp(s_ii / t) / sum_k exp(s_ik / t) for each first view i and all second views k of its group."""
    first, second = vectors.chunk(2)
    open_to = groups[:, None] == groups[None]
    scores = cosines(first, second) / temperature
    return Contrasted(scores.masked_fill(~open_to, NOBODY).logsumexp(1) - scores.diagonal(), open_to.sum(1))


def supcon(vectors: Tensor, groups: Tensor, temperature: float) -> Contrasted:
    """The mean over all positives p of -log exp(s_ip / t) / sum_k exp(s_ik / t), k != i among all.

    Positives are the other view and, for groups from 0 on, all views of the same group.
    """
    two = torch.cat([groups, groups])
    itself = torch.eye(len(two), dtype=torch.bool, device=two.device)
    same = (two[:, None] == two[None]) & (two >= 0)[:, None]
    positive = (same | torch.roll(itself, len(groups), 1)) & ~itself
    scores = (cosines(vectors, vectors) / temperature).masked_fill(itself, NOBODY)
    chances = (scores - scores.logsumexp(1, keepdim=True)).masked_fill(itself, 0.0)
    return Contrasted(-(chances * positive).sum(1) / positive.sum(1), torch.full_like(two, len(two) - 1))


def spectral(vectors: Tensor, groups: Tensor) -> Tensor:
    """-2 mean_i <x_i, y_i> + mean_{i != j} <x_i, y_j>^2 over pairs of one group; without such pairs the first term alone."""
    first, second = vectors.chunk(2)
    products = first @ second.T
    apart = (groups[:, None] == groups[None]) & ~torch.eye(len(groups), dtype=torch.bool, device=groups.device)
    return -2 * products.diagonal().mean() + (products.square() * apart).sum() / apart.sum().clamp(min=1)


def simsiam(vectors: Tensor, predicted: Tensor) -> Tensor:
    """-1/2 (mean cos(p_1, x_2) + mean cos(p_2, x_1)), p what is predicted (2 b, w); nothing flows back through x."""
    first, second = vectors.detach().chunk(2)
    from_first, from_second = predicted.chunk(2)
    pairs = F.cosine_similarity(from_first, second).mean(), F.cosine_similarity(from_second, first).mean()
    return -(pairs[0] + pairs[1]) / 2


def cosines(left: Tensor, right: Tensor) -> Tensor:
    """Cosines (m, n) of vectors (m, w) and (n, w), in float32 at least."""
    wide = torch.float64 if left.dtype == torch.float64 else torch.float32
    return F.normalize(left.to(wide), dim=1) @ F.normalize(right.to(wide), dim=1).T
