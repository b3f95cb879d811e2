"""Federated dropout's client: it trains the part of the network that it is sent, and sends all of that back."""

import numpy as np

from fedwarm.methods.federated_dropout import Dropped, factors, part
from fedwarm.methods.federated_dropout import FederatedDropout as Settings
from fedwarm.sparse.groups import Groups, Mask, Masks
from fedwarm.training.loop import Hook

from .fedsparse import GroupedClient, Received


class FederatedDropoutClient(GroupedClient):
    """Units that it was not sent are off."""

    dropped: Dropped

    def begin(self, got: Received, number: int) -> None:
        scaled = self.config.of(Settings).scale
        self.dropped = Dropped(got.groups, factors(got.groups, got.mask) if scaled else got.mask.astype(np.float64))

    def chosen(self, groups: Groups, live: Masks, gates: Mask) -> Masks:
        return part(groups, gates)

    def hooks(self) -> list[Hook]:
        return [self.dropped]
