"""The negative logarithm of a spike-and-slab prior, as a client of hard expectation maximisation minimises it.

Louizos, Reisser, Soriaga, Welling, "An Expectation-Maximization Perspective on Federated Learning", arXiv 2111.10192 (2021): the
server's weights and gate probabilities are a prior over each client's. The terms below are worked out for it here.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from fedwarm.sparse.groups import Groups
from fedwarm.sparse.hard_concrete import divergence


def distances(groups: Groups, weights: Mapping[str, Tensor], centre: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """(sum over g of ||phi_g - w_g||^2 as (G,), the same of all tensors of no group as a number)."""
    squares = {name: (weights[name] - centre[name]).square() for name in centre}
    parts = [
        squares[site.weight].sum(0) if site.inputs else squares[site.weight].reshape(site.gates, -1).sum(1)
        for site in groups.sites
    ]
    rest = [square.sum() for name, square in squares.items() if name not in groups.places]
    nothing = next(iter(squares.values())).new_zeros(())
    return torch.cat(parts) if parts else nothing.reshape(1)[:0], torch.stack([nothing, *rest]).sum()


def penalty(pi: Tensor, theta: Tensor, sizes: Tensor, grouped: Tensor, rest: Tensor, precision: float, price: float) -> Tensor:
    """(lambda/2) (sum_g pi_g d_g + d_rest) + lambda_0 sum_g |g| pi_g + sum_g KL(Bern(pi_g) || Bern(theta_g)).

    Args:
        pi, theta: of the groups (G,) that the client was sent.
        sizes: |g|, or 1 where a gate costs the same whatever its size (G,).
        grouped, rest: squared distances to the server's weights, by group (G,) and of the others.
        precision: lambda.
        price: lambda_0.
    """
    slab = precision / 2 * ((pi * grouped).sum() + rest) if precision else rest.new_zeros(())
    return slab + price * (sizes * pi).sum() + divergence(pi, theta).sum()
