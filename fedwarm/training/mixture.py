"""Several classifiers as one: a mixture of experts with a gate, its exact responsibilities, and what they do to a training step.

Jordan, Jacobs, "Hierarchical Mixtures of Experts and the EM Algorithm", Neural Computation 6, 1994. With q_ik, the responsibility
of expert k for example i, exact and held fixed, the gradient of the bound

    sum_i sum_k q_ik (log p(y_i | x_i, k) + log pi_k(x_i)) + sum_i H(q_i)

is that of sum_i log sum_k pi_k(x_i) p(y_i | x_i, k); so a mixture is trained by its likelihood, and q comes out of its forward
pass.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedwarm.core import sums
from fedwarm.core.before import before
from fedwarm.training.gates import Gate
from fedwarm.training.loop import Batch, Hook

PER_EXPERT, PER_CLIENT = "per_expert", "per_client"
LEAST_MASS = 0.5


def responsibilities(log_prior: Tensor, log_likelihood: Tensor) -> Tensor:
    """q_ik = pi_ik p_ik / sum_j pi_ij p_ij of logarithms (n, experts)."""
    return (log_prior + log_likelihood).softmax(dim=1)


def entropy(shares: Tensor) -> Tensor:
    """H of shares (experts,) that sum to one, in nats."""
    return -(shares * shares.clamp(min=torch.finfo(shares.dtype).tiny).log()).sum()


@dataclass(frozen=True)
class Seen:
    """What a mixture's forward pass found: log pi (b, k), log p (b, k, classes), and the experts' features, each (b, d)."""

    log_prior: Tensor
    log_p: Tensor
    features: tuple[Tensor, ...]


class Mixture(nn.Module):
    """log p(y | x) = log sum_k pi_k(x) p(y | x, k), (b, classes); the logits of an expert that is alone, as they are.

    Args:
        experts: by number; on a trunk, their heads.
        gate: logits over all experts, of which those that are here are taken.
        trunk: what all experts share; None: nothing.
        head: the layer of each expert whose input are its features; empty: features are not looked at.
    """

    def __init__(self, experts: Mapping[int, nn.Module], gate: Gate, trunk: nn.Module | None = None, head: str = "") -> None:
        super().__init__()
        self.numbers, self.watched = tuple(experts), False
        self.experts, self.gate, self.trunk = nn.ModuleList(experts.values()), gate, trunk
        self.seen: Seen | None = None
        self._features: list[Tensor] = []
        for expert in self.experts if head else ():
            before(expert.get_submodule(head), lambda _, features: self._features.append(features))

    def forward(self, inputs: Tensor) -> Tensor:
        """Of a batch (b, 3, S, S)."""
        logits, mean = self.looked(inputs)
        if len(logits) == 1:
            return logits[0]
        log_p = torch.stack(logits, dim=1).log_softmax(dim=2)
        log_prior = self.gate(inputs, mean)[:, list(self.numbers)].log_softmax(dim=1)
        if self.watched:
            self.seen = Seen(log_prior, log_p, tuple(self._features))
        return torch.logsumexp(log_prior[:, :, None] + log_p, dim=1)

    def looked(self, inputs: Tensor) -> tuple[list[Tensor], Tensor | None]:
        """Each expert's logits (b, classes), and what a gate may see of their features (b, d)."""
        self._features.clear()
        shared = inputs if self.trunk is None else self.trunk(inputs)
        logits = [expert(shared) for expert in self.experts]
        if self.trunk is not None:
            return logits, shared
        return logits, torch.stack(self._features).mean(0) if self._features else None

    def parameters_of(self, k: int) -> list[nn.Parameter]:
        """Those of the k-th of the experts that are here."""
        return [*self.experts[k].parameters()]


class Answers(nn.Module):
    """What a mixture's experts answer under several gates, computed once: log p (b, gates, classes).

    Args:
        mixture: of all experts.
        gates: each with the numbers of the experts that it chooses among.
        hard: the likeliest expert by the gate answers alone.
    """

    def __init__(self, mixture: Mixture, gates: Sequence[tuple[Gate, Sequence[int]]], hard: bool = False) -> None:
        super().__init__()
        self.mixture, self.hard = mixture, hard
        self.gates, self.choices = nn.ModuleList(gate for gate, _ in gates), [list(numbers) for _, numbers in gates]

    def forward(self, inputs: Tensor) -> Tensor:
        """Of a batch (b, 3, S, S)."""
        logits, features = self.mixture.looked(inputs)
        log_p, numbers = torch.stack(logits, dim=1).log_softmax(dim=2), self.mixture.numbers
        found = []
        for gate, choice in zip(self.gates, self.choices, strict=True):
            log_prior = gate(inputs, features)[:, choice].log_softmax(dim=1)
            own = log_p[:, [numbers.index(k) for k in choice]]
            if self.hard:
                found.append(own[torch.arange(len(own), device=own.device), log_prior.argmax(1)])
            else:
                found.append(torch.logsumexp(log_prior[:, :, None] + own, dim=1))
        return torch.stack(found, dim=1)


@dataclass(frozen=True)
class Terms:
    """How a mixture's steps differ from those along its likelihood.

    Attributes:
        norm: PER_EXPERT: an expert's loss is the mean over its responsibilities; PER_CLIENT: over the examples.
        gate_rate: factor of the gate's step size.
        client_entropy: weight of H(mean responsibility), which gates make small.
        prior: how much all clients use each of the experts that are here, summing to one; None: it has no part.
        global_entropy: weight of the change in the entropy of that, which gates make large.
        alignment: weight of the squared distances of the experts' features from their mean.
    """

    norm: str = PER_EXPERT
    gate_rate: float = 1.0
    client_entropy: float = 0.0
    prior: Tensor | None = None
    global_entropy: float = 0.0
    alignment: float = 0.0


class Responsible(Hook):
    """Counts responsibilities, and makes each expert's step as long as its share of the batch asks for.

    An expert with less than half an example of a batch takes no step, but for the one that has most.

    Attributes:
        mass: N_k, the sum of responsibilities over the last epoch, for each expert that is here.
        trained: whether it took a step.
    """

    uses = "batch"

    def __init__(self, mixture: Mixture, terms: Terms) -> None:
        self.mixture, self.terms = mixture, terms
        self.mass = [0.0] * len(mixture.numbers)
        self.trained = [False] * len(mixture.numbers)
        self.batch: tuple[list[float], int] = ([], 0)

    def prepare(self, model: nn.Module) -> None:
        self.mixture.watched = True

    def epoch(self, model: nn.Module, number: int) -> None:
        self.mass = [0.0] * len(self.mass)

    def loss(self, batch: Batch, loss: Tensor) -> Tensor:
        seen, count = self.mixture.seen, len(batch.labels)
        if seen is None:
            self._counted([float(count)], count)
            return loss
        log_likelihood = seen.log_p[torch.arange(count, device=batch.labels.device), :, batch.labels]
        q = responsibilities(seen.log_prior.detach().double(), log_likelihood.detach().double()).cpu()
        self._counted([sums.total(column) for column in zip(*q.tolist(), strict=True)], count)
        return self._with_terms(seen, log_likelihood, loss)

    def _counted(self, mass: list[float], count: int) -> None:
        self.batch = (mass, count)
        self.mass = [before + more for before, more in zip(self.mass, mass, strict=True)]

    def _with_terms(self, seen: Seen, log_likelihood: Tensor, loss: Tensor) -> Tensor:
        terms = self.terms
        if terms.client_entropy or terms.global_entropy:
            mean = responsibilities(seen.log_prior, log_likelihood.detach()).mean(0)
            loss = loss + terms.client_entropy * entropy(mean)
            if terms.prior is not None:  # the derivative of the entropy of all usage along what this client uses
                loss = loss + terms.global_entropy * (mean * terms.prior.to(mean).log()).sum()
        if terms.alignment and seen.features:
            middle, (mass, count) = torch.stack(seen.features).mean(0).detach(), self.batch
            shares = [m / count for m in mass] if terms.norm == PER_EXPERT else [1.0] * len(mass)
            apart = [(h - middle).square().sum(1).mean() for h in seen.features]
            loss = loss + terms.alignment * torch.stack([s * a for s, a in zip(shares, apart, strict=True)]).sum()
        return loss

    def gradient(self, model: nn.Module) -> None:
        mass, count = self.batch
        most = max(range(len(mass)), key=mass.__getitem__)
        for k, share in enumerate(mass):
            steps = share >= LEAST_MASS or k == most
            self.trained[k] = self.trained[k] or steps
            factor = count / share if self.terms.norm == PER_EXPERT and steps else 1.0
            for p in self.mixture.parameters_of(k):
                if p.grad is not None:
                    p.grad = p.grad.mul_(factor) if steps and factor != 1.0 else p.grad if steps else None
        for p in self.mixture.gate.parameters() if self.terms.gate_rate != 1.0 else ():
            if p.grad is not None:
                p.grad.mul_(self.terms.gate_rate)
