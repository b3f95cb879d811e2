"""The partition `domain-pathological`: looks and labels differ; each client holds a few classes of one domain."""

from __future__ import annotations

from fedwarm.data.partitions._inside import inside_domains
from fedwarm.data.partitions.domain import domain_name
from fedwarm.data.partitions.pathological import pathological
from fedwarm.data.settings import Data
from fedwarm.data.tables import Rows, Table
from fedwarm.settings.registry import component


@component(
    classed=True,
    whole=False,
    uses=("data.classes-per-client",),
    tests=domain_name,
    summary="Domain j goes to the clients j, j + domains, .., each of which holds data.classes-per-client classes of it.",
)
def domain_pathological(table: Table, data: Data, seed: int, partitions: int) -> list[Rows]:
    """The rows of each client."""
    return inside_domains(pathological, table, data, seed, partitions)


COMPONENT = domain_pathological
