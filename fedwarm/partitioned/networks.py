"""Networks of partitions as modules: one that trains one partition, and one that predicts by the whole and by psi."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import log

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call

from fedwarm.partitioned.psi import Psi
from fedwarm.training.loop import Batch, Hook

Masks = Mapping[str, NDArray[np.bool_]]


class Subnetwork(nn.Module):
    """w^(k) as a module whose only trained parameters are those of one partition; it sees inputs as psi changes them.

    What the network itself keeps as it is (`requires_grad`) stays so.

    Args:
        body: the network with the weights of w^(k); it is not changed, nothing of it is trained.
        mask: where the partition's weights are.
        psi, values: the hyperparameters, which stay, and their values (m,).
        draws: for what is random about them.
    """

    def __init__(self, body: nn.Module, mask: Masks, psi: Psi, values: Tensor, draws: torch.Generator) -> None:
        super().__init__()
        free = {name: parameter.requires_grad for name, parameter in body.named_parameters()}
        self.body = body.requires_grad_(False)
        self.psi, self.draws = psi, draws
        self.values: Tensor
        self.register_buffer("values", values, persistent=False)
        held = dict(body.named_parameters())
        self.places = {n: torch.from_numpy(m).to(held[n].device) for n, m in mask.items() if m.any()}
        whole = {name for name, place in self.places.items() if bool(place.all())}
        self.whole = whole
        self.own = nn.ParameterList(
            nn.Parameter(held[n].detach().clone() if n in whole else held[n].detach()[p], free[n]) for n, p in self.places.items()
        )

    def weights(self) -> dict[str, Tensor]:
        """All weights, the trained ones in their places."""
        held: dict[str, Tensor] = dict(self.body.named_parameters())
        for (name, place), own in zip(self.places.items(), self.own, strict=True):
            held[name] = own if name in self.whole else held[name].masked_scatter(place, own)
        return held

    def forward(self, x: Tensor) -> Tensor:
        given = self.psi.inputs(x, self.values, self.draws)
        outputs: Tensor = functional_call(self.body, self.weights(), (given,))
        return self.psi.outputs(outputs, self.values)

    @torch.no_grad()
    def take(self, other: Subnetwork) -> None:
        """Take up another's partition among the weights that stay."""
        held = dict(self.body.named_parameters())
        for (name, place), own in zip(other.places.items(), other.own, strict=True):
            held[name].masked_scatter_(place, own)

    def fixed(self) -> nn.Module:
        """The network with its weights as they are now, which stay."""
        self.take(self)
        return self.body

    def packed(self) -> NDArray[np.float32]:
        """The partition's weights (n,), as `Layout.packed` has them."""
        return torch.cat([own.detach().reshape(-1) for own in self.own]).cpu().numpy()


class Likelihood(Hook):
    """Puts -log p by psi in the place of cross-entropy where psi has a likelihood of its own."""

    uses = "example"

    def __init__(self, psi: Psi, values: Tensor) -> None:
        self.psi, self.values = psi, values

    def loss(self, batch: Batch, loss: Tensor) -> Tensor:
        return self.psi.loss(batch.logits, batch.labels, self.values) if self.psi.likelihood else loss


class Predictor(nn.Module):
    """log of the mean of p(y | x) over draws of what psi has random: the same draws for every batch."""

    def __init__(self, body: nn.Module, psi: Psi, values: Tensor, samples: int, draws: Callable[[], torch.Generator]) -> None:
        super().__init__()
        self.body, self.psi, self.samples, self.draws = body, psi, samples if psi.drawn else 1, draws
        self.values: Tensor
        self.register_buffer("values", values, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        draws = self.draws()
        found = [self.psi.outputs(self.body(self.psi.inputs(x, self.values, draws)), self.values) for _ in range(self.samples)]
        if self.samples == 1:
            return found[0]
        if self.psi.likelihood:
            return torch.stack(found).mean(0)
        return torch.stack([outputs.log_softmax(1) for outputs in found]).logsumexp(0) - log(self.samples)


def gradient(
    body: nn.Module,
    psi: Psi,
    values: Tensor,
    x: Tensor,
    labels: Tensor,
    draws: torch.Generator,
    samples: int = 1,
    batch: int = 512,
) -> tuple[Tensor, float]:
    """d/dpsi of the mean of -log p(y | x, w, psi) with the weights fixed, float64 (m,), and that mean in nats.

    p is the mean over draws of what psi has random. By one draw, whose log is averaged, no width of an invariance is better than
    another: images that lie at all angles are as likely when they are turned again, and it is the mean before the log that gains.

    Args:
        body: the network with its weights.
        values: psi (m,).
        x, labels: inputs (n, ..) and their labels.
        samples: draws that p is averaged over, where anything is random.
        batch: inputs at once.
    """
    leaf, total, loss = values.detach().double().requires_grad_(), torch.zeros_like(values, dtype=torch.float64), 0.0
    times = samples if psi.drawn else 1
    for rows in torch.arange(len(labels)).split(batch):
        told = [psi.outputs(body(psi.inputs(x[rows], leaf, draws)), leaf) for _ in range(times)]
        each = torch.stack([psi.log_likelihood(outputs, labels[rows], leaf) for outputs in told])
        part = (log(times) - each.logsumexp(0)).mean() * (len(rows) / len(labels))
        if part.requires_grad:
            (found,) = torch.autograd.grad(part, leaf, allow_unused=True, materialize_grads=True)
            total, loss = total + found, loss + float(part.detach())
    return total, loss
