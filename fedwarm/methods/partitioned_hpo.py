"""Partitioned hyperparameter optimisation: Mlodozeniec, Reisser, Louizos, "Hyperparameter Optimization through Neural Network
Partitioning", ICLR 2023, arXiv 2304.14766; related application: US-20260044747.

Clients are dealt to chunks and weights to partitions; partition k is trained by chunk k, or by the chunks 1 to k, inside the
subnetwork of the partitions up to it. Hyperparameters psi are learned by the loss of subnetwork k - 1 on chunk k, which it has
not seen, in one run and without a validation set. Public text fixes no schedules; where the code had to choose, the choice is a
setting.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedwarm.aggregators import Robust
from fedwarm.core.arrays import Arrays
from fedwarm.data.settings import Data
from fedwarm.methods import Method, refuse_early_end
from fedwarm.partitioned.masks import Layout, chunks_of, shares_of
from fedwarm.partitioned.psi import KNOWN, Floats, Psi, numbers
from fedwarm.settings.config import Config
from fedwarm.settings.fields import Group, SettingError, setting
from fedwarm.settings.kinds import RULES
from fedwarm.sparse.replies import check as refuse_running_statistics

PSI, VALUES, PARTITION = "psi", "psi/values", "partition/"


def _several(run: Any) -> bool:
    return int(run["partitioned-hpo.chunks"]) > 1


def _learns(run: Any) -> bool:
    return bool(run["partitioned-hpo.learn"]) and (_several(run) or run["partitioned-hpo.score"] == "trained")


def _drawn(run: Any) -> bool:
    return any(found.drawn for name in str(run["partitioned-hpo.learn"]).split("+") if (found := KNOWN.get(name.strip())))


def _ends(run: Any) -> bool:
    return _several(run) and run["partitioned-hpo.final"] != "full"


@dataclass(frozen=True)
class PartitionedHpo(Group, prefix="partitioned-hpo"):
    """Settings of partitioned hyperparameter optimisation."""

    learn: str = setting(
        "affine",
        "hyperparameters to learn, joined by +: affine, rotation, shifts (half-widths of random maps of the images), mask "
        "(of pixels), input-noise, temperature, noise-var; empty: none",
    )
    psi: str = setting(
        "",
            "initial values of the hyperparameters (psi), separated by commas, in the order in which a run reports them; "
        "empty: built-in; with chunks = 1 they stay fixed",
        when=lambda r: bool(r["partitioned-hpo.learn"]),
    )  # fmt: skip
    chunks: int = setting(
        3, "chunks of clients, and partitions of weights; 1: plain FedAvg with fixed hyperparameters", low=1, high=20
    )
    shares: str = setting(
        "",
        "fraction of the weights in each partition, separated by commas; empty: built-in, e.g. 0.6,0.25,0.15 for 3",
        when=_several,
    )
    chunk_sizes: str = setting("", "fraction of the clients in each chunk, separated by commas; empty: equal", when=_several)
    assign: str = setting(
        "random", "assignment of clients to chunks; random; in-order: by their numbers", choices=("random", "in-order"),
        when=_several,
    )  # fmt: skip
    defaults: str = setting(
        "initial",
        "weights of a subnetwork in place of later partitions; initial: those before training; zeros",
        choices=("initial", "zeros"),
        when=_several,
    )
    mode: str = setting(
        "B", "partitions that a client trains; B: that of its chunk; A: that and all later ones, for more bytes",
        choices=("A", "B"),
        when=_several,
    )  # fmt: skip
    score: str = setting(
        "unseen",
        "loss by which hyperparameters are learned; unseen: of subnetworks that have not seen the client's chunk; "
        "trained: of those trained on it, a control that is known to fail",
        choices=("unseen", "trained"), when=lambda r: bool(r["partitioned-hpo.learn"]),
    )  # fmt: skip
    include_first: bool = setting(
        False,
        "also learn from the loss of the untrained network on the first chunk",
        when=lambda r: _learns(r) and r["partitioned-hpo.score"] == "unseen",
    )
    every: int = setting(
        1, "rounds between updates of the hyperparameters psi; above the rounds that learn them: never", low=1, when=_learns
    )
    rate: float = setting(
        0.05, "learning rate of the hyperparameters: of the server's Adam, or of the clients' steps", low=0.0, when=_learns
    )
    psi_local_steps: int = setting(
        0,
        "gradient steps on the hyperparameters at each client, averaged by the server; 0: the server's Adam",
        low=0,
        when=_learns,
    )
    score_samples: int = setting(
        4, "random draws over which the loss for learning is averaged; 1 cannot find invariances",
        low=1, when=lambda r: _learns(r) and _drawn(r),
    )  # fmt: skip
    samples: int = setting(
        8,
        "random draws over which a prediction is averaged",
        low=1,
        when=_drawn,
    )
    final: str = setting(
        "finetune",
        "final model; finetune: all partitions, trained further as a whole; full: all partitions together; retrain: a new "
        "network, trained whole with the learned hyperparameters",
        choices=("finetune", "full", "retrain"), when=_several,
    )  # fmt: skip
    final_rounds: int = setting(0, "last rounds in which the whole network trains; 0: half of all rounds", low=0, when=_ends)

    @property
    def names(self) -> list[str]:
        """What is learned."""
        return [name.strip() for name in self.learn.split("+")] if self.learn.strip() else []

    @property
    def part_shares(self) -> tuple[float, ...]:
        """Shares of the weights."""
        return shares_of(numbers(self.shares), self.chunks)

    def whole_from(self, rounds: int) -> int:
        """The first round in which the network is trained whole; one that never comes where it is not."""
        if self.final == "full" or self.chunks == 1:
            return rounds + 1
        return rounds - min(rounds, self.final_rounds or rounds // 2) + 1

    def whole(self, number: int, rounds: int) -> bool:
        """Whether the network is trained whole in a round, and psi stays."""
        return number >= self.whole_from(rounds)

    def psi_of(self, size: int) -> tuple[Psi, Floats]:
        """The hyperparameters and their first values (m,), for images of `size` pixels a side.

        Raises:
            SettingError: one cannot be learned, or the values are not as many.
        """
        psi, given = Psi(self.names, (3, size, size)), np.array(numbers(self.psi), np.float64)
        if len(given) not in (0, len(psi.first)):
            raise SettingError(
                f"partitioned-hpo.psi has {len(given)} values, and {self.learn} has {len(psi.first)} on images {size} pixels "
                "wide; give as many, or none"
            )
        return psi, given if len(given) else psi.first

    def layout(self, initial: Arrays, seed: int, whole: bool) -> Layout:
        """The partitions of a network with these first weights; one partition where it is trained whole.

        Raises:
            SettingError: a partition got no weight.
        """
        first = {n: np.zeros_like(a) if self.defaults == "zeros" and self.chunks > 1 else a for n, a in initial.items()}
        return Layout.drawn(first, (1.0,) if whole else self.part_shares, seed)

    def chunk_table(self, clients: int, seed: int) -> NDArray[np.int64]:
        """The chunk of each client, from 1."""
        sizes = shares_of(numbers(self.chunk_sizes) or [1.0] * self.chunks, self.chunks, "partitioned-hpo.chunk-sizes")
        return chunks_of(clients, sizes, seed, self.assign)

    def trains(self, chunk: int) -> range:
        """The partitions that a client of a chunk trains."""
        return range(chunk, (self.chunks if self.mode == "A" else chunk) + 1)

    def gets(self, chunk: int) -> range:
        """Those that it is sent."""
        return range(1, (self.chunks if self.mode == "A" else chunk) + 1)

    def scores(self, chunk: int, number: int) -> int:
        """The subnetwork that a client of a chunk takes the gradient of psi on in a round; -1: none."""
        if not self.learn or number % self.every:
            return -1
        if self.score == "trained":
            return chunk
        return chunk - 1 if chunk > 1 or (self.include_first and self.chunks > 1) else -1


def validated(config: Config) -> None:
    """Refuse what does not go together.

    Raises:
        SettingError: a hyperparameter that no direct gradient reaches, shares that do not fit, a robust rule that needs
            replies that are alike, or rounds that may end before the network is trained whole.
    """
    settings, rule = config.of(PartitionedHpo), config.of(Robust).rule
    settings.psi_of(config.of(Data).image_size)
    _ = settings.part_shares, settings.chunk_table(settings.chunks, 0)
    refuse_early_end(config, fixed_rounds(config))
    if rule != RULES.first and settings.chunks > 1:
        raise SettingError(
            f"robust.rule = {rule!r} compares replies that are alike, and {config.run.method}'s clients send different "
            f"partitions; use robust.rule = {RULES.first!r}, with robust.clip-norm if updates should be bounded"
        )


def check(config: Config, known: Any) -> None:
    """Refuse before a run what cannot be.

    Raises:
        SettingError: fewer clients than chunks, or a classifier that has running statistics.
    """
    refuse_running_statistics(config, known)
    if known.clients < (chunks := config.of(PartitionedHpo).chunks):
        raise SettingError(
            f"{chunks} chunks of clients need as many clients, and there are {known.clients}; lower partitioned-hpo.chunks"
        )


def fixed_rounds(config: Config) -> str:
    """Reason why the number of rounds cannot change once a run has started; empty if it can."""
    settings, rounds = config.of(PartitionedHpo), config.run.num_server_rounds
    if settings.whole_from(rounds) > rounds:
        return ""
    return f"its last rounds train the network whole (partitioned-hpo.final = {settings.final!r})"


COMPONENT = Method(
    "PartitionedHpo",
    "hyperparameters such as augmentations learned in one run, by partitions of the weights (Mlodozeniec et al., 2023)",
    PartitionedHpo,
    averages=False,
    does=lambda run: {"begins": True},
    pictures=True,
    classed=True,
    validate=validated,
    check=check,
    fixed_rounds=fixed_rounds,
    refuses={
        "objective": "trains partitions of the weights by the likelihood alone",
        "privacy": "sends gradients of psi, which no account covers",
        "codec": "sends partitions of different sizes beside gradients of psi",
        "task": "learns psi by the likelihood of labels",
        "model.train": "trains partitions of all weights",
    },
)
