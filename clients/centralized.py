"""The reference that is not federated: one client holds everybody's training images and trains on them together."""

from functools import cached_property

from fedwarm.core.payload import Payload
from fedwarm.data import Shard, load_pooled
from fedwarm.data.settings import Data
from fedwarm.rounds.client import BaseClient


class CentralizedClient(BaseClient):
    """Its rounds run on the union of all clients' training images; measuring stays each client's own."""

    @cached_property
    def pooled(self) -> Shard:
        return load_pooled(self.config.of(Data), self.config.run.seed, self.node.partitions)

    def round(self, payload: Payload) -> Payload:
        self.shard = self.pooled
        return super().round(payload)
