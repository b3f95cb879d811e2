"""Federated dropout's server: it draws a part of the network for each client, and averages each number over those that had it."""

from fedwarm.core.seeds import numpy_generator
from fedwarm.methods.federated_dropout import FederatedDropout as Settings
from fedwarm.methods.federated_dropout import PartMean, drawn, part
from fedwarm.sparse.groups import Mask, Masks

from .fedsparse import Grouped


class FederatedDropout(Grouped):
    """Each client has its own random units (Caldas et al., arXiv 1812.07210, section 3.2, here drawn for each of them)."""

    method = "federated_dropout"

    def drawn(self, number: int, client: int) -> Mask:
        draws = numpy_generator(self.config.run.seed, self.method, number, client)
        return drawn(self.groups, self.config.of(Settings).keep, draws)

    def chosen(self, gates: Mask) -> Masks:
        return part(self.groups, gates)

    def new_mean(self) -> PartMean:
        return PartMean(self.groups)
