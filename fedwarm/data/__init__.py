"""Data sets, their partitions over clients, and each client's shard."""

from fedwarm.data.shards import Shard, default_clients, held_counts, load_pooled, load_shard, partition_table

__all__ = ["Shard", "default_clients", "held_counts", "load_pooled", "load_shard", "partition_table"]
