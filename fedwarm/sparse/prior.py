"""The prior of a round as a client trains under it: gates that are trained with the weights, or that follow from them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from fedwarm.sparse import hard_concrete
from fedwarm.sparse.gating import Gated
from fedwarm.sparse.groups import Floats, Groups, Mask, Masks
from fedwarm.sparse.penalty import Penalty, Prior
from fedwarm.training.loop import Batch, Hook

SHUT = 0.05  # a posterior below is as good as none


class Masked(Hook):
    """Only weights within masks are trained."""

    uses = "weights"

    def __init__(self, masks: Masks) -> None:
        self.masks = {name: torch.from_numpy(mask) for name, mask in masks.items()}

    def prepare(self, model: nn.Module) -> None:
        self.masks = {name: self.masks[name].to(p) for name, p in model.named_parameters()}

    def gradient(self, model: nn.Module) -> None:
        for name, p in model.named_parameters():
            if p.grad is not None:
                p.grad.mul_(self.masks[name])


class Strengths(Protocol):
    """What a prior is made of: lambda, lambda_2, the unit of lambda_0, and the step size of the gates."""

    @property
    def precision(self) -> float: ...
    @property
    def spike(self) -> float: ...
    @property
    def lambda0_per(self) -> str: ...
    @property
    def gate_rate(self) -> float: ...
    @property
    def learns(self) -> bool: ...
    @property
    def trains(self) -> bool: ...


class SparsePrior(Hook):
    """Trains weights, and gates with them, under the server's prior.

    Args:
        settings: of the method.
        groups: of the model.
        sent: the groups that are here (G,).
        theta: their probabilities, one each.
        sizes: |g| of all groups (G,).
        examples: N_s; penalties are divided by it, as the loss is a mean.
        price: lambda_0 in this round.
        draws: makes the noise of the gates.
    """

    uses = "batch"

    def __init__(
        self, settings: Strengths, groups: Groups, sent: Mask, theta: Floats, sizes: Floats, examples: int, price: float,
        draws: torch.Generator,
    ) -> None:  # fmt: skip
        self.settings, self.groups, self.examples, self.price, self.draws = settings, groups, examples, price, draws
        self.sent = torch.from_numpy(np.flatnonzero(sent))
        start = hard_concrete.log_alpha_of(torch.from_numpy(theta)).float()
        self.log_alpha = start.clone().requires_grad_(settings.trains)
        self.theta = hard_concrete.active(start)
        self.sizes = torch.from_numpy(sizes[sent]).float()
        self.centre: dict[str, Tensor] = {}
        self.gated: Gated | None = None

    def prepare(self, model: nn.Module) -> None:
        device = next(model.parameters()).device
        self.sent, self.theta, self.sizes = (t.to(device) for t in (self.sent, self.theta, self.sizes))
        self.log_alpha = self.log_alpha.detach().to(device).requires_grad_(self.settings.trains)
        self.centre = {name: p.detach().clone() for name, p in model.named_parameters()}
        if self.settings.learns:
            self.gated = Gated(model, self.groups, self.draw)

    def draw(self) -> Tensor:
        """All gates (G,) of a step; those of groups that are not here are 0."""
        gates = self.log_alpha.new_zeros(self.groups.count)
        if not self.settings.trains:
            return gates.index_fill(0, self.sent, 1.0)
        noise = torch.rand(len(self.sent), generator=self.draws).to(self.log_alpha)
        return gates.index_put((self.sent,), hard_concrete.sampled(self.log_alpha, noise))

    def loss(self, batch: Batch, loss: Tensor) -> Tensor:
        if not self.settings.trains and not self.settings.precision:
            return loss
        names, weights = zip(*batch.model.named_parameters(), strict=True)
        centre = [self.centre[name] for name in names]
        told = (self.settings.precision, self.price, self.settings.trains)
        prior = Prior(self.groups, names, centre, self.sent, self.theta, self.costs, *told)
        term: Tensor = Penalty.apply(prior, self.log_alpha, *weights)
        return loss + term / self.examples

    @property
    def costs(self) -> Tensor:
        """What lambda_0 counts for in each group that is here."""
        return self.sizes if self.settings.lambda0_per == "weight" else torch.ones_like(self.sizes)

    @torch.no_grad()
    def gradient(self, model: nn.Module) -> None:
        if self.log_alpha.grad is not None:
            self.log_alpha -= self.settings.gate_rate * self.log_alpha.grad
            self.log_alpha.copy_(hard_concrete.clamped(self.log_alpha))
            self.log_alpha.grad = None

    @torch.no_grad()
    def finish(self, model: nn.Module) -> None:
        if self.gated is not None:
            self.gated.remove()
        if self.settings.learns and not self.settings.trains:
            self.pi = torch.sigmoid(self.posterior(dict(model.named_parameters()))).cpu().double()

    def posterior(self, weights: Mapping[str, Tensor]) -> Tensor:
        """logit pi of the groups that are here, by Bayes' rule from their weights alone.

        Of N(w, 1/lambda) with probability theta and N(0, 1/lambda_2) else: logit theta + (lambda_2 ||phi||^2 - lambda
        ||phi - w||^2) / 2 - lambda_0 |g|, where lambda_0 stands for ln(lambda_2 / lambda) / 2.
        """
        spike = self.groups.squares(weights)[self.sent]
        slab = self.groups.squares({name: p - self.centre[name] for name, p in weights.items()})[self.sent]
        gain = (self.settings.spike * spike - self.settings.precision * slab) / 2
        return torch.logit(self.theta) + gain - self.price * self.costs

    def probabilities(self) -> tuple[Floats, Mask]:
        """Of the groups that are here: (pi, whether the group is worth sending: its gate is not shut without noise)."""
        if not self.settings.trains:
            return self.pi.numpy(), (self.pi > SHUT).numpy()
        la = self.log_alpha.detach().cpu().double()
        return hard_concrete.active(la).numpy(), (hard_concrete.deterministic(la) > 0).numpy()
