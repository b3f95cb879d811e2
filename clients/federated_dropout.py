"""Federated dropout's client: it trains the part of the network that it is sent, and sends all of that back."""

from fedwarm.methods.federated_dropout import Dropped
from fedwarm.methods.federated_dropout import FederatedDropout as Settings
from fedwarm.training.loop import Hook

from .fedsparse import GroupedClient, Received


class FederatedDropoutClient(GroupedClient):
    """Units that it was not sent are off."""

    dropped: Dropped

    def begin(self, got: Received, number: int) -> None:
        settings = self.config.of(Settings)
        self.dropped = Dropped(got.groups, got.mask, 1 / settings.keep if settings.scale else 1.0)

    def hooks(self) -> list[Hook]:
        return [self.dropped]
