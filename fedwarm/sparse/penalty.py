"""The negative logarithm of a spike-and-slab prior, as a client of hard expectation maximisation minimises it.

Louizos, Reisser, Soriaga, Welling, "An Expectation-Maximization Perspective on Federated Learning", arXiv 2111.10192 (2021): the
server's weights and gate probabilities are a prior over each client's. The terms below are worked out for it here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fedwarm.sparse.groups import Groups
from fedwarm.sparse.hard_concrete import active, divergence


class Penalty(torch.autograd.Function):
    """(lambda/2) (sum_g pi_g ||phi_g - w_g||^2 + ||rest - w||^2) + lambda_0 sum_g |g| pi_g + sum_g KL(pi_g || theta_g).

    Its gradients are written out, which takes a third of the time: lambda pi_g (phi_g - w_g) for weights, and for a gate
    pi (1 - pi) [(lambda/2) ||phi_g - w_g||^2 + lambda_0 |g| + logit(pi) - logit(theta)].
    """

    @staticmethod
    def forward(ctx: Any, prior: Prior, log_alpha: Tensor, *weights: Tensor) -> Tensor:
        gaps = [w - c for w, c in zip(weights, prior.centre, strict=True)]
        pi, value = active(log_alpha), log_alpha.new_zeros(())
        cost = prior.price * prior.sizes
        if prior.precision:
            grouped, rest = prior.distances(gaps)
            cost = cost + prior.precision / 2 * grouped[prior.sent]
            value = prior.precision / 2 * rest
        if prior.learns:
            value = value + (pi * cost).sum() + divergence(pi, prior.theta).sum()
        elif prior.precision:
            value = value + prior.precision / 2 * grouped.sum()
        ctx.prior = prior
        ctx.save_for_backward(pi, cost, *gaps)
        return value

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        prior, (pi, cost, *gaps) = ctx.prior, ctx.saved_tensors
        by_gate = outer[0] * pi * (1 - pi) * (cost + torch.logit(pi) - torch.logit(prior.theta)) if prior.learns else None
        if not prior.precision:
            return (None, by_gate, *(None for _ in gaps))
        return (None, by_gate, *prior.pulls(outer[0] * prior.precision, pi, gaps))


class Prior:
    """What a client of a round knows beforehand.

    Args:
        groups: of the model.
        names: of its weights, in the order in which they are given.
        centre: w, the server's weights.
        sent: the numbers of the groups that are here.
        theta: their probabilities.
        sizes: |g| of each of them, or 1 where a gate costs the same whatever its size.
        precision, price: lambda and lambda_0.
        learns: whether there are gates; else all pi are 1, and neither price nor divergence counts.
    """

    def __init__(
        self, groups: Groups, names: Sequence[str], centre: Sequence[Tensor], sent: Tensor, theta: Tensor, sizes: Tensor,
        precision: float, price: float, learns: bool,
    ) -> None:  # fmt: skip
        self.groups, self.names, self.centre, self.sent, self.theta, self.sizes = groups, names, centre, sent, theta, sizes
        self.precision, self.price, self.learns = precision, price, learns

    def distances(self, gaps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """(||phi_g - w_g||^2 of all groups (G,), and of what is in no group)."""
        found = dict(zip(self.names, gaps, strict=True))
        rest = torch.cat([gap.reshape(-1) for name, gap in found.items() if name not in self.groups.places] or [gaps[0][:0]])
        return self.groups.squares(found), rest.square().sum()

    def pulls(self, factor: Tensor, pi: Tensor, gaps: Sequence[Tensor]) -> list[Tensor]:
        """factor pi_g (phi_g - w_g) of all weights."""
        if not self.learns:
            return [factor * gap for gap in gaps]
        everywhere = pi.new_zeros(self.groups.count).index_put((self.sent,), pi)
        out = []
        for name, gap in zip(self.names, gaps, strict=True):
            if name in self.groups.places:
                site, place = self.groups.places[name]
                values = everywhere[place]
                if site.single:
                    values = values.view(gap.shape)
                elif not site.inputs:
                    values = values.repeat_interleave(site.units).reshape(-1, *[1] * (gap.dim() - 1))
                out.append(factor * values * gap)
            else:
                out.append(factor * gap)
        return out
