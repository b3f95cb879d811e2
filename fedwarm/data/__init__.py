"""Data sets, who holds which part of them, and the images of one client; loaded when first asked for, as torch takes its time."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedwarm.data.shards import Shard, default_clients, held_counts, load_pooled, load_shard, partition_table

__all__ = ["Shard", "default_clients", "held_counts", "load_pooled", "load_shard", "partition_table"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"{__name__} has no {name!r}")
    return getattr(import_module("fedwarm.data.shards"), name)
