"""Partitioned hyperparameter optimisation's client: the gradient of psi first, then the partitions of its chunk."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch
from torch import nn

from fedwarm.core.arrays import Arrays, from_module
from fedwarm.core.payload import Payload
from fedwarm.core.seeds import generator
from fedwarm.methods.partitioned_hpo import PARTITION, VALUES, PartitionedHpo
from fedwarm.models import to_input
from fedwarm.partitioned.networks import Likelihood, Predictor, gradient
from fedwarm.partitioned.psi import Floats, Psi
from fedwarm.partitioned.turn import Turn, locally
from fedwarm.rounds.client import BaseClient
from fedwarm.training.dropout import layers_draw
from fedwarm.training.loop import Hook


class PartitionedHpoClient(BaseClient):
    """Trains the partitions of its chunk, each inside its subnetwork."""

    values: Floats = np.zeros(0)

    @property
    def settings(self) -> PartitionedHpo:
        return self.config.of(PartitionedHpo)

    @cached_property
    def psi(self) -> Psi:
        return self.settings.psi_of(self.real.train_images.shape[-1])[0]

    def network(self, arrays: Arrays) -> nn.Module:
        """The classifier with these weights."""
        return self.model(Payload("weights", arrays))

    def hooks(self) -> list[Hook]:
        return [Likelihood(self.psi, torch.from_numpy(self.values).to(self.device))]

    def round(self, payload: Payload) -> Payload:
        number, settings = payload.count("round", 1), self.settings
        whole = settings.whole(number, self.config.run.num_server_rounds)
        chunk = int(settings.chunk_table(self.node.partitions, self.config.run.seed)[self.node.partition])
        turn = self.turn(payload, number, -1 if whole else settings.scores(chunk, number), whole)
        loss = 0.0
        for k in range(1, 2) if whole else settings.trains(chunk):
            trained = turn.subnetwork(k, self.psi, self.draws("augmentation", number * settings.chunks + k - 1))
            loss = self.fit(trained, "train" if whole or k == chunk else f"train partition {k}", number)
            turn.keep(k, trained)
        arrays: Arrays = {f"{PARTITION}{k}": values for k, values in turn.parts.items()}
        if turn.gradient is not None:
            arrays[VALUES] = turn.gradient.astype(np.float32)
        return Payload("weights", arrays, {"num-examples": self.weight, "train-loss": loss})

    def turn(self, payload: Payload, number: int, unseen: int, whole: bool) -> Turn:
        """What came, and its gradient on subnetwork `unseen`; -1: none."""
        settings, initial = self.settings, from_module(self.model())
        layout = settings.layout(initial, self.config.run.seed, whole)
        parts = {int(name.removeprefix(PARTITION)): array for name, array in payload.arrays.items() if name != VALUES}
        self.take(payload)

        def score(network: nn.Module, values: Floats) -> Floats:
            x = to_input(self.shard.train_images.to(self.device))
            labels = self.shard.train_labels.to(self.device)
            draws = self.draws("psi", number)
            now = torch.from_numpy(values).to(self.device)
            with layers_draw(draws, self.device):
                found, _ = gradient(network, self.psi, now, x, labels, draws, settings.score_samples)
            return found.cpu().numpy()

        asked = locally(score, settings.psi_local_steps, settings.rate) if unseen >= 0 and len(self.values) else None
        return Turn(layout, layout.placed(initial, parts), self.network, asked, unseen, self.values)

    def take(self, payload: Payload) -> None:
        """Take psi up as it came."""
        self.values = payload.arrays.get(VALUES, np.zeros(0)).astype(np.float64)

    def evaluate(self, payload: Payload) -> Payload:
        self.take(payload)
        held = {name: array for name, array in payload.arrays.items() if name != VALUES}
        return super().evaluate(Payload(payload.kind, held, payload.metrics, payload.facts))

    def measured(self, model: nn.Module, whose: str) -> Payload:
        seed, values = self.config.run.seed, torch.from_numpy(self.values).to(self.device)
        known = Predictor(model, self.psi, values, self.settings.samples, lambda: generator(seed, "predict"))
        return super().measured(known, whose)
