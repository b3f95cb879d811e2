"""OCFL: Zuziak, Pellungrini, Rinzivillo, "One-Shot Clustering for Federated Learning Under Clustering-Agnostic Assumption",
arXiv 2509.01587 (2025; first version 2503.04231).

FedAvg of all clients, until the temperature, how far apart their updates point, rises for the first time. Then clients are
clustered by their updates, once, and each cohort goes on by itself, from the model of that round.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from fedwarm.core.clusters import CLUSTERINGS, HDBSCAN, K_MEANS, Clustering
from fedwarm.methods import Method
from fedwarm.settings.config import Config
from fedwarm.settings.fields import Group, setting
from fedwarm.training.private import refuse_hidden

COHORT, GLOBAL = "cohort", "global"


def _by_density(run: Any) -> bool:
    return bool(run["ocfl.clustering"] == HDBSCAN)


@dataclass(frozen=True)
class Ocfl(Group, prefix="ocfl"):
    """Settings of OCFL."""

    clustering: str = setting(
        HDBSCAN, "how clients are clustered by the cosine distances of their updates", choices=tuple(CLUSTERINGS)
    )
    smallest: int = setting(3, "fewest clients of a cohort that HDBSCAN finds", low=2, when=_by_density)
    clusters: int = setting(4, "number of cohorts, with k-means", low=1, when=lambda r: r["ocfl.clustering"] == K_MEANS)
    noise: str = setting(
        COHORT,
        "clients that HDBSCAN finds alike to no others; cohort: they are one of their own; global: they share the mean of all "
        "clients",
        choices=(COHORT, GLOBAL), when=_by_density,
    )  # fmt: skip
    earliest: int = setting(
        2, "first round after which clients may be clustered; later than the last: plain FedAvg, whose temperature is told", low=2
    )

    @property
    def how(self) -> Clustering:
        """How clients are clustered."""
        return Clustering(self.clustering, self.smallest, self.clusters)


def reach(settings: Any, config: Config, clients: int) -> Iterator[str]:
    """That the server holds updates."""
    yield f"until clients are clustered all {clients} train in every round, and the server holds as many times the model's memory"


COMPONENT = Method(
    "Ocfl",
    "FedAvg that finds out when to divide clients into cohorts, and into which, each with a model (Zuziak et al., 2025)",
    Ocfl,
    averages=False,
    stacks=True,
    reach=reach,
    validate=refuse_hidden,
    does=lambda run: {"shares": False, "personal": True},
)
