"""FedMix's server: it averages each expert over those who trained it, and chooses by their last replies whom it sends which."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from fedwarm.core.arrays import Arrays
from fedwarm.core.norms import cast, floats
from fedwarm.core.seeds import numpy_generator
from fedwarm.methods.fedmix import ALL, NOISE, RANDOM_GATES, SEEDS
from fedwarm.methods.fedmix import FedMix as Settings
from fedwarm.models import Model, head_of
from fedwarm.rounds.experts import EXPERT, Experts
from fedwarm.rounds.server import Stage
from fedwarm.training.gates import TRUNK
from fedwarm.training.mixture import PER_EXPERT


class FedMix(Experts):
    """w_k <- sum_s N_sk / N_k w_sk over the clients s that trained expert k (arXiv 2107.06724)."""

    method = "fedmix"

    @cached_property
    def settings(self) -> Settings:
        return self.config.of(Settings)

    @property
    def count(self) -> int:
        return self.settings.experts

    def begin(self, stage: Stage) -> None:
        own = self.settings
        self.rate, self.momentum, self.least_mass = own.server_learning_rate, own.server_momentum, own.least_mass
        self.by_mass = own.experts == 1 or own.norm == PER_EXPERT
        super().begin(stage)

    def chosen(self, client: int, number: int) -> tuple[int, ...]:
        """All at first contact and every `refresh` rounds (never where the round is -1), else those that it uses."""
        own, mass = self.settings, self.usage.get(client)
        if own.experts == 1 or own.select == ALL or mass is None:
            return super().chosen(client, number)
        since = number - self.full.get(client, number)
        return super().chosen(client, number) if 0 <= own.refresh <= since else own.selected(mass)

    def shared(self, names: Arrays) -> frozenset[str]:
        """All but the head, where experts are heads on one trunk."""
        if self.count == 1 or self.settings.gate != TRUNK:
            return frozenset()
        return frozenset(names) - {*head_of(self.config.of(Model), self.new_model())}

    def first(self, k: int) -> Arrays:
        own = self.settings
        if own.experts == 1 or own.init == SEEDS:
            return super().first(k)
        return super().first(0) if own.init == RANDOM_GATES or k == 0 else self.noisy(super().first(0), k)

    def noisy(self, arrays: Arrays, k: int) -> Arrays:
        """The arrays with noise of `init-scale` of each one's own standard deviation."""
        draws, found = numpy_generator(self.config.run.seed, EXPERT, NOISE, k), dict(arrays)
        for name in floats(arrays):
            start = arrays[name].astype(np.float64)
            noise = draws.standard_normal(start.shape) * (self.settings.init_scale * float(np.std(start)))
            found[name] = cast(start + noise, arrays[name].dtype)
        return found
