"""The partition `pathological`: every client holds rows of a given number of classes.

Q. Li et al., "Federated Learning on Non-IID Data Silos: An Experimental Study", ICDE 2022, arXiv 2102.02079; by flwr-datasets'
PathologicalPartitioner. Client i holds class i modulo their number and others drawn at random; a class that nobody drew is in no
client's hands.
"""

from __future__ import annotations

from fedwarm.core.seeds import derive
from fedwarm.data.rows import dealt, present
from fedwarm.data.settings import Data
from fedwarm.data.tables import Rows, Table
from fedwarm.settings.fields import SettingError
from fedwarm.settings.registry import component


@component(
    classed=True,
    whole=False,
    uses=("data.classes-per-client",),
    summary="Every client holds rows of data.classes-per-client classes.",
)
def pathological(table: Table, data: Data, seed: int, partitions: int) -> list[Rows]:
    """The rows of each client."""
    from flwr_datasets.partitioner import PathologicalPartitioner

    k, classes = data.classes_per_client, len(present(table.label))
    if k > classes:
        raise SettingError(f"data.classes-per-client = {k} is more than the {classes} classes of {table.name}; give at most that")
    partitioner = PathologicalPartitioner(
        partitions, "label", k, "first-deterministic", shuffle=False, seed=derive(seed, "partition", "pathological")
    )
    refusal = (
        f"{partitions} clients with data.classes-per-client = {k} need more images of some class than {table.name} has; "
        "take fewer of either"
    )
    return dealt(partitioner, table, seed, partitions, refusal)


COMPONENT = pathological
