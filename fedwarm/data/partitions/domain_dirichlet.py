"""The partition `domain-dirichlet`: looks and labels differ; a domain is dealt among clients of its own by Dirichlet(alpha)."""

from __future__ import annotations

from fedwarm.data.partitions._inside import inside_domains
from fedwarm.data.partitions.dirichlet import dirichlet
from fedwarm.data.partitions.domain import domain_name
from fedwarm.data.settings import Data
from fedwarm.data.tables import Rows, Table
from fedwarm.settings.registry import component


@component(
    classed=True,
    uses=("data.alpha",),
    tests=domain_name,
    summary="Domain j goes to the clients j, j + domains, .., among whom Dirichlet(data.alpha) deals every class.",
)
def domain_dirichlet(table: Table, data: Data, seed: int, partitions: int) -> list[Rows]:
    """The rows of each client."""
    return inside_domains(dirichlet, table, data, seed, partitions)


COMPONENT = domain_dirichlet
