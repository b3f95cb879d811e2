"""Hyperparameters by partitions on one machine: a weight step on every partition, then one of psi on what they have not seen.

Partition w_k is trained on chunks D_1 to D_k inside w^(k), and L_ML(psi) = sum over k > 1 of log p(D_k | w^(k-1), psi).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from fedwarm.core.arrays import from_module, to_tensors
from fedwarm.core.seeds import generator
from fedwarm.partitioned.masks import Layout
from fedwarm.partitioned.networks import Predictor, Subnetwork, gradient
from fedwarm.partitioned.psi import Floats, Psi

Examples = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Search:
    """How psi is looked for.

    Attributes:
        steps: weight steps of each partition.
        batch: examples of a step.
        rate, psi_rate: step sizes of Adam on the weights and on psi.
        samples: draws that the likelihood of psi is averaged over.
        every: T, weight steps between steps of psi.
        include_first: whether the first chunk scores the untrained network.
        trained: the control: each chunk scores the subnetwork that was trained on it.
    """

    steps: int = 1000
    batch: int = 64
    rate: float = 3e-3
    psi_rate: float = 3e-2
    samples: int = 4
    every: int = 1
    include_first: bool = False
    trained: bool = False


@dataclass
class Found:
    """What came of it.

    Attributes:
        psi: at the end (m,).
        body: the whole network, w^(C).
        trajectory: psi after each of its steps.
    """

    psi: Floats
    body: nn.Module
    trajectory: list[Floats] = field(default_factory=list)


def scored_chunks(count: int, search: Search) -> list[tuple[int, int]]:
    """(chunk, subnetwork that it scores) of all chunks that have a say on psi."""
    if search.trained:
        return [(k, k) for k in range(1, count + 1)]
    return [(k, k - 1) for k in range(1 if search.include_first else 2, count + 1)]


def split(examples: Examples, sizes: Sequence[float], seed: int) -> list[Examples]:
    """Chunks of examples, at random."""
    x, labels = examples
    order = torch.randperm(len(labels), generator=generator(seed, "chunks"))
    edges = np.rint(np.cumsum(sizes) / np.sum(sizes) * len(labels)).astype(int)[:-1]
    return [(x[rows], labels[rows]) for rows in order.tensor_split(torch.from_numpy(edges))]


def _batch(examples: Examples, size: int, draws: torch.Generator) -> Examples:
    rows = torch.randint(len(examples[1]), (min(size, len(examples[1])),), generator=draws)
    return examples[0][rows], examples[1][rows]


class Partitioned:
    """A network in partitions, one a chunk.

    Args:
        make: makes the network with its first weights.
        layout: the partitions.
        chunks: as many as partitions.
        psi: what is learned.
        values: its first values (m,).
        search: how.
        seed: of all draws.
    """

    def __init__(
        self, make: Callable[[], nn.Module], layout: Layout, chunks: Sequence[Examples], psi: Psi, values: Floats, search: Search,
        seed: int,
    ) -> None:  # fmt: skip
        self.layout, self.chunks, self.psi, self.search = layout, chunks, psi, search
        self.make, self.arrays = make, from_module(make())
        self.values = torch.from_numpy(values.copy())
        self.draws = {use: generator(seed, "central", use) for use in ("batches", "psi", "augmentation")}
        self.networks = [self._network(k) for k in range(1, layout.count + 1)]
        self.steppers = [torch.optim.Adam(network.own, lr=search.rate) for network in self.networks]
        self.seen = [self._joined(chunks[:k]) for k in range(1, layout.count + 1)]
        self.stepper = torch.optim.Adam([self.values], lr=search.psi_rate)

    @staticmethod
    def _joined(chunks: Sequence[Examples]) -> Examples:
        return torch.cat([x for x, _ in chunks]), torch.cat([labels for _, labels in chunks])

    def body(self, k: int) -> nn.Module:
        """w^(k) as it is now."""
        made = self.make()
        made.load_state_dict(to_tensors(self.layout.subnetwork(self.arrays, k)))
        return made

    def _network(self, k: int) -> Subnetwork:
        return Subnetwork(self.body(k), self.layout.mask(k), self.psi, self.values, self.draws["augmentation"])

    def step_weights(self) -> None:
        """One step on every partition, each inside its subnetwork."""
        for k in range(len(self.networks)):
            self.step_partition(k + 1)

    def step_partition(self, k: int) -> None:
        """One step of partition k on a batch of D_1 to D_k; those behind it see it move."""
        network, stepper = self.networks[k - 1], self.steppers[k - 1]
        x, labels = _batch(self.seen[k - 1], self.search.batch, self.draws["batches"])
        network.values.copy_(self.values)
        loss = self.psi.loss(network(x), labels, network.values)
        stepper.zero_grad()
        loss.backward()
        stepper.step()
        for later in self.networks[k:]:
            later.take(network)

    def step_psi(self) -> None:
        """One step along the gradient of the mean of the chunks' losses, each on the subnetwork that has not seen it."""
        chosen = scored_chunks(len(self.chunks), self.search)
        total, examples = torch.zeros_like(self.values), sum(len(self.chunks[k - 1][1]) for k, _ in chosen)
        for k, unseen in chosen:
            x, labels = _batch(self.chunks[k - 1], self.search.batch, self.draws["psi"])
            body = self.body(0) if unseen == 0 else self.networks[unseen - 1].fixed()
            found, _ = gradient(body, self.psi, self.values, x, labels, self.draws["psi"], self.search.samples)
            total += found * (len(self.chunks[k - 1][1]) / examples)
        if chosen:
            self.values.grad = total
            self.stepper.step()

    def run(self) -> Found:
        """All steps."""
        trajectory = []
        for number in range(1, self.search.steps + 1):
            self.step_weights()
            if number % self.search.every == 0:
                self.step_psi()
                trajectory.append(self.values.numpy().copy())
        return Found(self.values.numpy().copy(), self.networks[-1].fixed(), trajectory)


def alone(make: Callable[[], nn.Module], examples: Examples, psi: Psi, values: Floats, search: Search, seed: int) -> Found:
    """Ordinary training of a fresh network on all examples, psi frozen: what `retrain` is."""
    arrays = from_module(make())
    layout = Layout({n: np.ones(a.shape, np.uint8) for n, a in arrays.items()}, arrays, 1)
    return Partitioned(make, layout, [examples], psi, values, search, seed).run()


def accuracy(found: Found, psi: Psi, examples: Examples, samples: int, seed: int) -> float:
    """The share of examples that predictions averaged over psi's draws are right about."""
    values = torch.from_numpy(found.psi)
    with torch.no_grad():
        predictor = Predictor(found.body, psi, values, samples, lambda: generator(seed, "predict"))
        right = [
            predictor(x).argmax(1) == labels for x, labels in zip(examples[0].split(512), examples[1].split(512), strict=True)
        ]
    return float(torch.cat(right).float().mean())
