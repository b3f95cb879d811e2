"""The partition `dirichlet`: every class is shared out in proportions drawn from Dirichlet(alpha).

M. Yurochkin et al., "Bayesian Nonparametric Federated Learning of Neural Networks", ICML 2019, arXiv 1905.12022; by
flwr-datasets' DirichletPartitioner.
"""

from __future__ import annotations

from fedwarm.core.seeds import derive
from fedwarm.data.rows import FEWEST, dealt
from fedwarm.data.settings import Data
from fedwarm.data.tables import Rows, Table
from fedwarm.settings.registry import component


@component(
    classed=True, uses=("data.alpha",), summary="Every class is shared out in proportions drawn from Dirichlet(data.alpha)."
)
def dirichlet(table: Table, data: Data, seed: int, partitions: int) -> list[Rows]:
    """The rows of each client."""
    from flwr_datasets.partitioner import DirichletPartitioner

    partitioner = DirichletPartitioner(
        partitions, "label", data.alpha, min_partition_size=FEWEST, shuffle=False, seed=derive(seed, "partition", "dirichlet")
    )
    refusal = (
        f"data.alpha = {data.alpha:g} is too small for {partitions} clients on the {len(table)} images of {table.name}: in every "
        f"draw some client got fewer than {FEWEST}; raise it or take fewer clients"
    )
    return dealt(partitioner, table, seed, partitions, refusal)


COMPONENT = dirichlet
